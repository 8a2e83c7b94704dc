// Runs a program: operators one after the other over the arena, or strip by strip where they form a chain.
#include "engine.h"

#include <algorithm>
#include <ctime>
#include <limits>

#include "threads.h"
#include "work.h"

namespace podar {
namespace {

// One thread's own time where one thread works (others on the machine do not count), the clock on the wall otherwise.
int64_t now(int threads) {
  timespec t;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<int64_t>(t.tv_sec) * 1000000000 + t.tv_nsec;
}

}  // namespace

int64_t Engine::whole(const Op& op) const {
  if (op.kind == kOutput) return 1;
  const Tensor& t = tensors[op.out];
  return round_up(static_cast<int64_t>(t.height - 1) * t.stride + t.width, level->vector);
}

// How far the input must be done before positions up to `to` of the output can be.
int64_t Engine::needed(const Op& op, int64_t to) const {
  if (op.in < 0 || op.kind == kOutput) return std::numeric_limits<int64_t>::max();
  const Tensor& in = tensors[op.in];
  const int64_t all = round_up(static_cast<int64_t>(in.height) * in.stride, 16);
  int64_t rows;
  switch (op.kind) {
    case kConv: return std::min(all, to + op.p[kReach]);
    case kAdd: case kMul: case kAct: return to;
    case kPhase: rows = to / tensors[op.out].stride * op.p[kStepY] + op.p[kStepY]; break;
    case kMaxPool: case kAvgPool:
      rows = to / tensors[op.out].stride * op.p[kDown] - op.p[kPadY] + op.p[kHigh];
      break;
    default: return all;
  }
  return to >= whole(op) || rows >= in.height ? all : rows * in.stride;
}

int64_t Engine::floats(const Op& op) const {
  const Tensor& t = tensors[op.kind == kOutput ? op.in : op.out];
  if (op.kind == kInput && op.p[kStepY] > 0) return static_cast<int64_t>(op.p[5]) * op.p[6] * op.p[7];
  return static_cast<int64_t>(t.channels) * t.height * t.width;
}

// Operator `index` over some of its positions.
Work Engine::work(int index, int64_t from, int64_t to, int threads) const {
  const Op& op = ops[index];
  float* const base = arena_->begin();
  const Tensor* const in_tensor = op.in >= 0 ? &tensors[op.in] : nullptr;
  const Tensor& t = op.kind == kOutput ? *in_tensor : tensors[op.out];
  // A batch is run image by image.
  const float* const in = op.kind == kInput ? in_[op.p[kIndex]] + image_index_ * floats(op) : in_tensor ? base + in_tensor->base : nullptr;
  float* const out = op.kind == kOutput ? out_[op.p[kIndex]] + image_index_ * floats(op) : base + t.base;
  return {op, *level, image, tensors.data(), base, in_tensor, in, t, out, mask_of_[index], whole(op), from, to, threads};
}

// A convolution and the depthwise one that alone reads it: some channels at a time, strip by strip, so that what lies
// between them stays in the cache and is never whole.
void Engine::run_pair(int index, int threads) {
  const Work first_work = work(index, 0, whole(ops[index]), 1), next_work = work(index + 1, 0, whole(ops[index + 1]), 1);
  const Op &conv = first_work.op, &next = next_work.op;
  const Tensor& between = first_work.t;
  const int32_t channels = next_work.t.channels, group = between.channels, rows = conv.p[kRowsOf];
  const int32_t groups = (channels + group - 1) / group;
  const int64_t positions = first_work.positions;
  const int32_t height = next_work.t.height;
  // About 2000 floats a channel at a time; narrow planes whole.
  const int32_t strip = std::max(8, 2048 / (between.stride * next.p[kStep])) / 4 * 4;
  const int parts = std::min(threads, groups);
  // Memory is asked for here, where there is one thread to be told that there is none.
  const size_t floats = static_cast<size_t>(between.lead) * 2 + static_cast<size_t>(group) * between.plane + 1024;
  while (static_cast<int>(scratch_.size()) < parts - 1) scratch_.emplace_back();
  for (int i = 0; i < parts - 1; ++i)
    if (!scratch_[i] || scratch_[i]->floats() < floats) scratch_[i] = std::make_unique<Arena>(floats);
  auto part = [&](int i, int n) {
    float* const out = i > 0 ? scratch_[i - 1]->begin() + between.lead : first_work.out;
    if (conv.flags & kMasked) zero_between(between, out);
    SparseJob job = first_work.sparse_job(out, channels);
    auto [from, to] = share(groups, i, n);
    for (int32_t g = from; g < to; ++g) {
      const int32_t first = g * group, last = std::min(first + group, channels);
      job.out_first = first;
      int64_t done = 0;
      for (int32_t y = 0; y < height; y += strip) {
        const int32_t end = std::min(y + strip, height);
        const int64_t below = (end - 1) * next.p[kStep] - next.p[kAbove] + next.p[kKernel];
        const int64_t until = end == height ? positions : std::min(positions, round_up(std::max<int64_t>(below, 0) * between.stride, 16));
        if (until > done) level->sparse(job, done, until, first / rows, (last + rows - 1) / rows);
        done = std::max(done, until);
        for (int32_t c = first; c < last; ++c)
          next_work.depthwise_rows(c, out + static_cast<int64_t>(c - first) * between.plane, y, end);
      }
    }
  };
  in_parallel(parts, part);
}

void Engine::run_op(int index, int64_t from, int64_t to, int threads) {
  const Work w = work(index, from, to, threads);
  if (w.op.kind == kOutput) return w.give();  // the caller's memory: nothing lies between its planes
  if ((w.op.flags & kMasked) && from == 0) zero_between(w.t, w.out);
  switch (w.op.kind) {
    case kInput: case kPhase: return w.phases();
    case kConv: return w.convolve();
    case kDepthwise: return w.depthwise();
    case kLinear: return w.linear();
    case kAttention: return w.attend();
    case kMaxPool: case kAvgPool: return w.pool();
    case kMean: return w.mean();
    case kAdd: case kMul: case kAct: return w.elementwise();
    case kCopy: return w.copy();
    case kUpsample: return w.upsample();
    case kJoin: return w.join();
    case kConstant: return w.constant();
    default: throw Refused("unknown operator");
  }
}

// Depth first: the last operator's next strip asks its input for as much as it needs, and so on up the chain, so that
// what one operator wrote is still in the cache when the next reads it.
void Engine::run_chain(int first, int last, int threads, int64_t* nanoseconds) {
  for (int i = first; i < last; ++i) progress_[i] = 0;
  struct Runner {
    Engine& engine;
    int first, threads;
    int64_t* nanoseconds;
    void ensure(int index, int64_t to) {
      const Op& op = engine.ops[index];
      const int64_t end = engine.whole(op);
      to = std::min(to, end);
      if (engine.progress_[index] >= to) return;
      const int64_t done = engine.progress_[index];
      // By rows where the operator works by rows, by whole lines where by positions.
      const bool by_rows = op.kind == kPhase || op.kind == kInput || op.kind == kMaxPool || op.kind == kAvgPool;
      const int64_t grain = by_rows ? engine.tensors[op.out].stride : 16;
      to = std::min(std::max(round_up(to, grain), done + round_up(op.p[kStripOf], grain)), end);
      if (op.in >= 0 && engine.producer_[op.in] >= first) ensure(engine.producer_[op.in], engine.needed(op, to));
      if (op.in2 >= 0 && engine.producer_[op.in2] >= first) ensure(engine.producer_[op.in2], to);
      const int64_t start = nanoseconds ? now(threads) : 0;
      engine.run_op(index, done, to, threads);
      if (nanoseconds) nanoseconds[index] += now(threads) - start;
      engine.progress_[index] = to;
    }
  };
  Runner runner{*this, first, threads, nanoseconds};
  const int64_t end = whole(ops[last - 1]);
  while (progress_[last - 1] < end)
    runner.ensure(last - 1, progress_[last - 1] + std::max<int64_t>(ops[last - 1].p[kStripOf], 1));
  for (int i = first; i < last; ++i) runner.ensure(i, whole(ops[i]));
}

void Engine::run(const float* const* inputs_, float* const* outputs_, int64_t batch, int threads, int64_t* nanoseconds) {
  const Running now_running;
  std::lock_guard<std::mutex> mine(busy_);
  in_ = inputs_;
  out_ = outputs_;
  const int count = static_cast<int>(ops.size());
  for (image_index_ = 0; image_index_ < batch; ++image_index_) {
    for (int i = 0; i < count;) {
      const int chain = ops[i].p[kChain];
      int end = i + 1;
      while (chain && end < count && ops[end].p[kChain] == chain) ++end;
      if (ops[i].flags & kPaired) {
        const int64_t start = nanoseconds ? now(threads) : 0;
        run_pair(i, threads);
        if (nanoseconds) nanoseconds[i] += now(threads) - start;
        end = i + 2;
      } else if (end > i + 1) {
        run_chain(i, end, threads, nanoseconds);
      } else {
        const int64_t start = nanoseconds ? now(threads) : 0;
        run_op(i, 0, whole(ops[i]), threads);
        if (nanoseconds) nanoseconds[i] += now(threads) - start;
      }
      i = end;
    }
  }
}

}  // namespace podar
