// Runs a program: operators one after the other over the arena, or strip by strip where they form a chain.
#include "engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ctime>
#include <limits>

#include "threads.h"

namespace podar {
namespace {

// One thread's own time where one thread works (others on the machine do not count), the clock on the wall otherwise.
int64_t now(int threads) {
  timespec t;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<int64_t>(t.tv_sec) * 1000000000 + t.tv_nsec;
}

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Operators' parameters by name.
enum Conv { kRowsOf, kBlocks, kInputBlocks, kTile, kEntries, kReach };
enum Phase { kStepY, kStepX, kPhases, kIndex, kMaskOf };
enum Pool { kHigh, kWide, kDown, kAcross, kPadY, kPadX };
constexpr int kChain = 11, kStripOf = 10;

// Channels `first` to `last` of part i of n.
std::pair<int32_t, int32_t> share(int32_t count, int i, int n) {
  return {static_cast<int32_t>(static_cast<int64_t>(count) * i / n),
          static_cast<int32_t>(static_cast<int64_t>(count) * (i + 1) / n)};
}

}  // namespace

int64_t Engine::whole(const Op& op) const {
  if (op.kind == kOutput) return 1;
  const Tensor& t = tensors[op.out];
  return round_up(static_cast<int64_t>(t.height) * t.stride, 16);
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

namespace {

// Rows of one plane from a source of any stride; the rest of each row, and of the plane, becomes zero.
void fill_plane(const float* from, int64_t from_stride, int rows, int columns, const Tensor& t, float* to, int y0, int y1) {
  for (int y = y0; y < y1; ++y) {
    float* row = to + static_cast<int64_t>(y) * t.stride;
    const int n = y < rows ? columns : 0;
    if (n) std::memcpy(row, from + y * from_stride, n * sizeof(float));
    std::fill(row + n, row + t.stride, 0.0f);
  }
}

void zero_tail(const Tensor& t, float* plane) {
  const int64_t end = static_cast<int64_t>(t.height) * t.stride;
  std::fill(plane + end, plane + round_up(end, 16), 0.0f);
}

}  // namespace

void Engine::run_op(int index, int64_t from, int64_t to, int threads) {
  const Op& op = ops[index];
  float* const base = arena_->begin();
  const Level& kernels = *level;
  if (op.kind == kOutput) {
    const Tensor& t = tensors[op.in];
    const int64_t area = static_cast<int64_t>(t.height) * t.width;
    float* const out = out_[op.p[kIndex]] + image_index_ * floats(op);
    auto part = [&](int i, int n) {
      auto [first, last] = share(t.channels, i, n);
      for (int c = first; c < last; ++c)
        for (int y = 0; y < t.height; ++y) {
          const float* row = base + t.base + static_cast<int64_t>(c) * t.plane + static_cast<int64_t>(y) * t.stride;
          if (op.flags & kRows)
            for (int x = 0; x < t.width; ++x) out[(static_cast<int64_t>(y) * t.width + x) * t.channels + c] = row[x];
          else
            std::memcpy(out + c * area + static_cast<int64_t>(y) * t.width, row, t.width * sizeof(float));
        }
    };
    in_parallel(area * t.channels > 65536 ? threads : 1, part);
    return;
  }
  const Tensor& t = tensors[op.out];
  float* const out = base + t.base;
  const Tensor* in_tensor = op.in >= 0 ? &tensors[op.in] : nullptr;
  const float* const in = in_tensor ? base + in_tensor->base : nullptr;
  const uint32_t* const inside = (op.flags & kMasked) ? mask_of_[index] : nullptr;
  const bool last_strip = to >= whole(op);
  const int y0 = static_cast<int>(from / t.stride);
  const int y1 = last_strip ? t.height : static_cast<int>(to / t.stride);

  switch (op.kind) {
    case kConv: {
      SparseJob job;
      job.in = in;
      job.out = out;
      job.residual = op.in2 >= 0 ? base + tensors[op.in2].base : nullptr;
      job.residual_plane = op.in2 >= 0 ? tensors[op.in2].plane : 0;
      job.starts = reinterpret_cast<const int32_t*>(image + op.at[0]);
      job.offsets = reinterpret_cast<const int32_t*>(image + op.at[1]);
      job.weights = reinterpret_cast<const float*>(image + op.at[2]);
      job.bias = reinterpret_cast<const float*>(image + op.at[3]);
      job.mask = inside;
      job.out_plane = t.plane;
      job.channels = t.channels;
      job.blocks = op.p[kBlocks];
      job.input_blocks = op.p[kInputBlocks];
      job.rows = op.p[kRowsOf];
      job.tile = op.p[kTile];
      job.act = op.act;
      job.residual_after = op.flags & kResidualAfter;
      job.a = op.a;
      job.b = op.b;
      auto part = [&](int i, int n) {
        auto [first, last] = share(job.blocks, i, n);
        kernels.sparse(job, from, to, first, last);
      };
      in_parallel(std::min(threads, job.blocks), part);
      return;
    }
    case kInput:
    case kPhase: {
      const bool outside = op.kind == kInput;
      const int64_t area = outside ? static_cast<int64_t>(op.p[6]) * op.p[7] : in_tensor->plane;
      const int height = outside ? op.p[6] : in_tensor->height, width = outside ? op.p[7] : in_tensor->width;
      const int64_t stride = outside ? width : in_tensor->stride;
      const int channels = outside ? op.p[5] : in_tensor->channels;
      const float* source = outside ? in_[op.p[kIndex]] + image_index_ * floats(op) : in;
      const int sy = op.p[kStepY], sx = op.p[kStepX], phases = op.p[kPhases];
      auto part = [&](int i, int n) {
        auto [first, last] = share(channels, i, n);
        for (int c = first; c < last; ++c) {
          int kept = 0;
          for (int phase = 0; phase < sy * sx; ++phase) {
            if (!(op.p[kMaskOf] >> phase & 1)) continue;
            float* plane = out + (static_cast<int64_t>(c) * phases + kept++) * t.plane;
            const int a = phase / sx, b = phase % sx;
            if (op.flags & kRows) {
              for (int x = 0; x < width; ++x) plane[x] = source[static_cast<int64_t>(x) * channels + c];
              std::fill(plane + width, plane + t.stride, 0.0f);
            } else if (sy == 1 && sx == 1) {
              fill_plane(source + c * area, stride, height, width, t, plane, y0, y1);
            } else {
              const int columns = b < width ? std::min((width - b + sx - 1) / sx, t.width) : 0;
              for (int y = y0; y < y1; ++y) {
                float* row = plane + static_cast<int64_t>(y) * t.stride;
                const int from_y = y * sy + a;
                const int m = from_y < height ? columns : 0;
                if (m) kernels.split_row(source + c * area + from_y * stride + b, sx, row, m);
                std::fill(row + m, row + t.stride, 0.0f);
              }
            }
            if (last_strip) zero_tail(t, plane);
          }
        }
      };
      in_parallel(threads, part);
      return;
    }
    case kLinear: {
      const auto* starts = reinterpret_cast<const int32_t*>(image + op.at[0]);
      const auto* offsets = reinterpret_cast<const int32_t*>(image + op.at[1]);
      const auto* weights = reinterpret_cast<const float*>(image + op.at[2]);
      const auto* bias = reinterpret_cast<const float*>(image + op.at[3]);
      auto part = [&](int i, int n) {
        auto [first, last] = share(t.channels, i, n);
        kernels.dots(starts, offsets, weights, bias, in, out, t.plane, first, last);
        for (int o = first; o < last; ++o) {
          float& y = out[static_cast<int64_t>(o) * t.plane];
          const float* extra =
              op.in2 >= 0 ? base + tensors[op.in2].base + static_cast<int64_t>(o) * tensors[op.in2].plane : nullptr;
          if (extra && !(op.flags & kResidualAfter)) y += *extra;
          kernels.activate(&y, 1, op.act, op.a, op.b);
          if (extra && (op.flags & kResidualAfter)) y += *extra;
        }
      };
      in_parallel(std::min(threads, t.channels), part);
      return;
    }
    case kMaxPool:
    case kAvgPool: {
      const int kh = op.p[kHigh], kw = op.p[kWide], sh = op.p[kDown], sw = op.p[kAcross], ph = op.p[kPadY], pw = op.p[kPadX];
      const bool max = op.kind == kMaxPool;
      const int length = std::max((t.width - 1) * sw + kw, pw + in_tensor->width);
      auto part = [&](int i, int n) {
        auto [first, last] = share(t.channels, i, n);
        std::vector<float> scratch(length, max ? -std::numeric_limits<float>::infinity() : 0.0f);
        std::vector<const float*> rows(kh);
        for (int c = first; c < last; ++c) {
          const float* plane = in + static_cast<int64_t>(c) * in_tensor->plane;
          float* to_plane = out + static_cast<int64_t>(c) * t.plane;
          for (int y = y0; y < y1; ++y) {
            const int top = std::max(y * sh - ph, 0), bottom = std::min(y * sh - ph + kh, in_tensor->height);
            for (int r = top; r < bottom; ++r) rows[r - top] = plane + static_cast<int64_t>(r) * in_tensor->stride;
            float* row = to_plane + static_cast<int64_t>(y) * t.stride;
            (max ? kernels.max_row : kernels.sum_row)(rows.data(), bottom - top, in_tensor->width, scratch.data(), pw, kw,
                                                      sw, row, t.width);
            if (!max)
              for (int x = 0; x < t.width; ++x) {
                const int left = std::max(x * sw - pw, 0), right = std::min(x * sw - pw + kw, in_tensor->width);
                row[x] /= static_cast<float>(op.flags & kExcludePad ? (bottom - top) * (right - left) : kh * kw);
              }
            std::fill(row + t.width, row + t.stride, 0.0f);
          }
          if (last_strip) zero_tail(t, to_plane);
        }
      };
      in_parallel(threads, part);
      return;
    }
    case kMean: {
      auto part = [&](int i, int n) {
        auto [first, last] = share(t.channels, i, n);
        for (int c = first; c < last; ++c) {
          double sum = 0;
          for (int y = 0; y < in_tensor->height; ++y)
            sum += kernels.sum(in + static_cast<int64_t>(c) * in_tensor->plane + static_cast<int64_t>(y) * in_tensor->stride,
                               in_tensor->width);
          out[static_cast<int64_t>(c) * t.plane] = static_cast<float>(sum / (static_cast<double>(in_tensor->height) * in_tensor->width));
        }
      };
      in_parallel(threads, part);
      return;
    }
    case kAdd:
    case kMul:
    case kAct: {
      auto part = [&](int i, int n) {
        auto [first, last] = share(t.channels, i, n);
        for (int c = first; c < last; ++c) {
          const float* x = in + static_cast<int64_t>(c) * in_tensor->plane + from;
          float* y = out + static_cast<int64_t>(c) * t.plane + from;
          if (op.kind == kAct) {
            if (x != y) std::memcpy(y, x, (to - from) * sizeof(float));
          } else {
            const Tensor& second = tensors[op.in2];
            const float* z = base + second.base + static_cast<int64_t>(c) * second.plane;
            if (op.flags & kPerChannel)
              kernels.scale(x, *z, y, to - from);
            else
              (op.kind == kAdd ? kernels.add : kernels.mul)(x, z + from, y, to - from);
          }
          kernels.activate(y, to - from, op.act, op.a, op.b);
          if (inside) kernels.keep(y, inside + from, to - from);
        }
      };
      in_parallel(threads, part);
      return;
    }
    case kCopy: {
      auto part = [&](int i, int n) {
        auto [first, last] = share(t.channels, i, n);
        for (int c = first; c < last; ++c) {
          float* plane = out + static_cast<int64_t>(c) * t.plane;
          fill_plane(in + static_cast<int64_t>(c) * in_tensor->plane, in_tensor->stride, t.height, t.width, t, plane, 0, t.height);
          zero_tail(t, plane);
        }
      };
      in_parallel(threads, part);
      return;
    }
    case kUpsample: {
      const int fy = op.p[0], fx = op.p[1];
      auto part = [&](int i, int n) {
        auto [first, last] = share(t.channels, i, n);
        for (int c = first; c < last; ++c) {
          const float* plane = in + static_cast<int64_t>(c) * in_tensor->plane;
          float* to_plane = out + static_cast<int64_t>(c) * t.plane;
          for (int y = 0; y < t.height; ++y) {
            const float* x = plane + static_cast<int64_t>(y / fy) * in_tensor->stride;
            float* row = to_plane + static_cast<int64_t>(y) * t.stride;
            for (int k = 0; k < in_tensor->width; ++k)
              for (int j = 0; j < fx; ++j) row[k * fx + j] = x[k];
            std::fill(row + t.width, row + t.stride, 0.0f);
          }
          zero_tail(t, to_plane);
        }
      };
      in_parallel(threads, part);
      return;
    }
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
  std::lock_guard<std::mutex> mine(busy_);
  in_ = inputs_;
  out_ = outputs_;
  const int count = static_cast<int>(ops.size());
  for (image_index_ = 0; image_index_ < batch; ++image_index_) {
    for (int i = 0; i < count;) {
      const int chain = ops[i].p[kChain];
      int end = i + 1;
      while (chain && end < count && ops[end].p[kChain] == chain) ++end;
      if (end > i + 1) {
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
