// A small pool of sleeping threads: parts of one job at a time, the caller takes part 0.
#pragma once

namespace podar {

// While one of these lives an engine runs: a fork waits for its end, and where a fork is under way its making waits.
struct Running {
  Running();
  ~Running();
  Running(const Running&) = delete;
};

// Calls part(context, i, n) for i in 0..n, each on a thread of its own; serially where another engine is using the pool,
// and with a smaller n where the system does not give so many threads. Returns, or throws what a part threw first, when all
// parts have ended.
void in_parallel(int n, void (*part)(void* context, int i, int n), void* context);

template <class F>
void in_parallel(int n, F& f) {
  if (n <= 1) {
    f(0, 1);
    return;
  }
  in_parallel(n, [](void* context, int i, int parts) { (*static_cast<F*>(context))(i, parts); }, &f);
}

}  // namespace podar
