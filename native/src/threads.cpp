// The pool: threads are started when first asked for, spin for some microseconds between layers, then sleep.
#include "threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
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
        part(context, index, n);
        left.fetch_sub(1, std::memory_order_release);
      }
    }
  }
};

// Never destroyed: its threads may sleep in it until the process ends. A forked child starts an empty one.
Pool* pool = nullptr;
std::once_flag once;

void start() {
  pool = new Pool;
  pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
}

}  // namespace

void in_parallel(int n, void (*part)(void*, int, int), void* context) {
  std::call_once(once, start);
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
  part(context, 0, n);
  while (p.left.load(std::memory_order_acquire) != 0) std::this_thread::yield();
}

}  // namespace podar
