// The pool: threads are started when first asked for, spin for some microseconds between layers, then sleep.
#include "threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace podar {
namespace {

constexpr int kMost = 256;  // more threads than this no layer has work for

struct Pool {
  std::mutex one_job;
  std::mutex lock;
  std::condition_variable wake;
  std::atomic<unsigned> round{0};
  std::atomic<int> left{0};
  int parts = 0;
  void (*part)(void*, int, int) = nullptr;
  void* context = nullptr;
  int started = 0;
  std::exception_ptr thrown;  // the first of a job, kept until its caller has waited for all parts

  // An exception that left a thread would end the process.
  void guarded(int i, int n) {
    try {
      part(context, i, n);
    } catch (...) {
      std::lock_guard<std::mutex> hold(lock);
      if (!thrown) thrown = std::current_exception();
    }
  }

  void work(int index, unsigned seen) {
    for (;;) {
      for (int i = 0; i < 2000 && round.load(std::memory_order_acquire) == seen; ++i) std::this_thread::yield();
      int n;
      {
        std::unique_lock<std::mutex> hold(lock);
        wake.wait(hold, [&] { return round.load(std::memory_order_relaxed) != seen; });
        seen = round.load(std::memory_order_relaxed);
        n = parts;
      }
      if (index < n) {
        guarded(index, n);
        left.fetch_sub(1, std::memory_order_release);
      }
    }
  }
};

// Never destroyed: its threads may sleep in it until the process ends. A forked child starts an empty one.
Pool* pool = nullptr;

// How many engines run now; a fork waits until none does and lets none begin, so that no lock of an engine or of the pool
// is held by a thread that the child does not have.
struct Gate {
  std::mutex lock;
  std::condition_variable changed;
  int running = 0;
  bool forking = false;
};
alignas(Gate) unsigned char gate_memory[sizeof(Gate)];
Gate* gate = nullptr;

void before_fork() {
  std::unique_lock<std::mutex> hold(gate->lock);
  gate->changed.wait(hold, [] { return !gate->forking; });
  gate->forking = true;
  gate->changed.wait(hold, [] { return gate->running == 0; });
}

void after_fork() {
  {
    std::lock_guard<std::mutex> hold(gate->lock);
    gate->forking = false;
  }
  gate->changed.notify_all();
}

void in_child() {
  gate = new (gate_memory) Gate;  // other threads may have waited at the old one
  pool = new Pool;
}

// When the library is loaded, before there is any engine.
const int prepared = [] {
  gate = new (gate_memory) Gate;
  pool = new Pool;
  return pthread_atfork(before_fork, after_fork, in_child);
}();

}  // namespace

Running::Running() {
  std::unique_lock<std::mutex> hold(gate->lock);
  gate->changed.wait(hold, [] { return !gate->forking; });
  ++gate->running;
}

Running::~Running() {
  {
    std::lock_guard<std::mutex> hold(gate->lock);
    --gate->running;
  }
  gate->changed.notify_all();
}

void in_parallel(int n, void (*part)(void*, int, int), void* context) {
  Pool& p = *pool;
  std::unique_lock<std::mutex> mine(p.one_job, std::try_to_lock);
  if (n <= 1 || !mine.owns_lock()) {
    for (int i = 0; i < n; ++i) part(context, i, n);
    return;
  }
  n = std::min(n, kMost);
  try {
    for (; p.started < n - 1; ++p.started) std::thread(&Pool::work, &p, p.started + 1, p.round.load()).detach();
  } catch (const std::system_error&) {
    n = p.started + 1;  // the system gives no more: those that there are do the work
  }
  {
    std::lock_guard<std::mutex> hold(p.lock);
    p.parts = n;
    p.part = part;
    p.context = context;
    p.left.store(n - 1, std::memory_order_relaxed);
    p.round.fetch_add(1, std::memory_order_release);
  }
  p.wake.notify_all();
  p.guarded(0, n);
  while (p.left.load(std::memory_order_acquire) != 0) std::this_thread::yield();
  if (p.thrown) std::rethrow_exception(std::exchange(p.thrown, nullptr));
}

}  // namespace podar
