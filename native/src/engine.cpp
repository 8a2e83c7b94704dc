// Runs a program: operators one after the other over the arena, or strip by strip where they form a chain.
#include "engine.h"

#include <algorithm>
#include <array>
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
enum Attention { kHeads, kKeys, kValues, kFirstQ, kStepQ, kFirstK, kStepK, kFirstV, kStepV };
enum Depthwise { kKernel, kStep, kAbove, kBefore };
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

// The zeros before the first plane and after each: the memory may have held something else.
void zero_between(const Tensor& t, float* planes) {
  std::fill_n(planes - t.lead, t.lead, 0.0f);
  const int64_t image = static_cast<int64_t>(t.height - 1) * t.stride + t.width;
  const int64_t end = std::max<int64_t>(t.plane, round_up(static_cast<int64_t>(t.height) * t.stride, 16));
  for (int c = 0; c < t.channels; ++c) {
    float* plane = planes + static_cast<int64_t>(c) * t.plane;
    std::fill(plane + image, plane + end, 0.0f);
  }
}

}  // namespace

SparseJob Engine::sparse_job(const Op& op, float* out, int32_t channels) const {
  const float* const base = arena_->begin();
  SparseJob job;
  job.in = base + tensors[op.in].base;
  job.out = out;
  job.out_first = 0;
  job.residual = op.in2 >= 0 ? base + tensors[op.in2].base : nullptr;
  job.residual_plane = op.in2 >= 0 ? tensors[op.in2].plane : 0;
  job.starts = reinterpret_cast<const int32_t*>(image + op.at[0]);
  job.entries = image + op.at[1];
  job.bias = reinterpret_cast<const float*>(image + op.at[3]);
  job.mask = nullptr;
  job.out_plane = tensors[op.out].plane;
  job.channels = channels;
  job.blocks = op.p[kBlocks];
  job.input_blocks = op.p[kInputBlocks];
  job.rows = op.p[kRowsOf];
  job.tile = op.p[kTile];
  job.act = op.act;
  job.residual_after = op.flags & kResidualAfter;
  job.a = op.a;
  job.b = op.b;
  return job;
}

void Engine::run_depthwise(const Op& op, int32_t channel, const float* plane, int32_t from_row, int32_t to_row) {
  const Tensor &t = tensors[op.out], &from = tensors[op.in];
  const int area = op.p[kKernel] * op.p[kKernel];
  DepthwiseJob job;
  job.in = plane - static_cast<int64_t>(op.p[kAbove]) * from.stride - op.p[kBefore];
  job.out = arena_->begin() + t.base + static_cast<int64_t>(channel) * t.plane;
  job.weights = reinterpret_cast<const float*>(image + op.at[2]) + static_cast<int64_t>(channel) * area;
  job.bias = reinterpret_cast<const float*>(image + op.at[3])[channel];
  static constexpr auto columns = [] {
    std::array<uint32_t, 32> ones{};
    for (int i = 0; i < 16; ++i) ones[i] = ~uint32_t{0};
    return ones;
  }();
  job.first_columns = columns.data() + 16 - std::min(t.width, 16);
  job.mask = mask_of_[&op - ops.data()];
  job.in_stride = from.stride;
  job.out_stride = t.stride;
  job.height = t.height;
  job.width = t.width;
  job.kernel = op.p[kKernel];
  job.step = op.p[kStep];
  job.act = op.act;
  job.a = op.a;
  job.b = op.b;
  level->depthwise(job, from_row, to_row);
  if (to_row == t.height) zero_tail(t, job.out);
}

// One head: scores [keys][queries] = kᵀq and then v · softmax of them, both by the kernel of dense blocks, with the numbers
// of k and v as its weights; positions of queries lie side by side all the way.
void Engine::run_attention(const Op& op, const uint32_t* inside, int32_t head) {
  const Tensor &from = tensors[op.in], &t = tensors[op.out];
  const float* const in = arena_->begin() + from.base;
  const int32_t keys = from.height * from.width, depth = op.p[kKeys], values = op.p[kValues];
  const int64_t n = whole(op);
  auto plane = [&](int first, int step, int32_t d) {
    return in + static_cast<int64_t>(op.p[first] + head * op.p[step] + d) * from.plane;
  };
  const int32_t key_blocks = (keys + 3) / 4, value_blocks = (values + 3) / 4;
  const size_t room = static_cast<size_t>(key_blocks) * 4 * n;
  std::vector<float> scores(room + 16), inverse(n);
  std::vector<Entry<4>> entries(std::max<size_t>(size_t{1} * key_blocks * depth, size_t{1} * value_blocks * keys));
  std::vector<float> zeros(4 * static_cast<size_t>(std::max(key_blocks, value_blocks)));
  std::vector<int32_t> starts(std::max(key_blocks, value_blocks) + 1);

  SparseJob job{};
  job.starts = starts.data();
  job.entries = entries.data();
  job.bias = zeros.data();
  job.input_blocks = 1;
  job.rows = 4;
  job.tile = 7;

  for (int32_t b = 0; b <= key_blocks; ++b) starts[b] = b * depth;
  for (int32_t b = 0; b < key_blocks; ++b)
    for (int32_t d = 0; d < depth; ++d) {
      const float* k = plane(kFirstK, kStepK, d);
      Entry<4>& entry = entries[static_cast<size_t>(b) * depth + d];
      entry.offset = static_cast<int32_t>(d * static_cast<int64_t>(from.plane));
      for (int32_t r = 0; r < 4; ++r) {
        const int32_t j = b * 4 + r;
        entry.weights[r] = j < keys ? op.a * k[static_cast<int64_t>(j / from.width) * from.stride + j % from.width] : 0.0f;
      }
    }
  job.in = plane(kFirstQ, kStepQ, 0);
  job.out = scores.data();
  job.out_plane = n;
  job.channels = keys;
  job.blocks = key_blocks;
  level->sparse(job, 0, n, 0, key_blocks);
  level->exponentials(scores.data(), n, keys, inverse.data(), n);

  for (int32_t b = 0; b <= value_blocks; ++b) starts[b] = b * keys;
  for (int32_t b = 0; b < value_blocks; ++b)
    for (int32_t r = 0; r < 4; ++r) {
      const float* v = b * 4 + r < values ? plane(kFirstV, kStepV, b * 4 + r) : nullptr;
      for (int32_t j = 0; j < keys; ++j) {
        Entry<4>& entry = entries[static_cast<size_t>(b) * keys + j];
        entry.offset = static_cast<int32_t>(j * n);
        entry.weights[r] = v ? v[static_cast<int64_t>(j / from.width) * from.stride + j % from.width] : 0.0f;
      }
    }
  job.in = scores.data();
  job.out = arena_->begin() + t.base + static_cast<int64_t>(head) * values * t.plane;
  job.out_plane = t.plane;
  job.channels = values;
  job.blocks = value_blocks;
  level->sparse(job, 0, n, 0, value_blocks);
  for (int32_t d = 0; d < values; ++d) {
    float* y = job.out + static_cast<int64_t>(d) * t.plane;
    level->mul(y, inverse.data(), y, n);
    if (inside) level->keep(y, inside, n);
  }
}

// A convolution and the depthwise one that alone reads it: some channels at a time, strip by strip, so that what lies
// between them stays in the cache and is never whole.
void Engine::run_pair(int index, int threads) {
  const Op &conv = ops[index], &next = ops[index + 1];
  const Tensor& between = tensors[conv.out];
  const int32_t channels = tensors[next.out].channels, group = between.channels, rows = conv.p[kRowsOf];
  const int32_t groups = (channels + group - 1) / group;
  const int64_t positions = whole(conv);
  const int32_t height = tensors[next.out].height;
  // About 2000 floats a channel at a time; narrow planes whole.
  const int32_t strip = std::max(8, 2048 / (between.stride * next.p[kStep])) / 4 * 4;
  const int parts = std::min(threads, groups);
  while (static_cast<int>(scratch_.size()) < parts - 1) scratch_.emplace_back();
  auto part = [&](int i, int n) {
    float* out = arena_->begin() + between.base;
    if (i > 0) {
      auto& own = scratch_[i - 1];
      const size_t floats = static_cast<size_t>(between.lead) * 2 + static_cast<size_t>(group) * between.plane + 1024;
      if (!own || own->floats() < floats) own = std::make_unique<Arena>(floats);
      out = own->begin() + between.lead;
    }
    if (conv.flags & kMasked) zero_between(between, out);
    SparseJob job = sparse_job(conv, out, channels);
    job.mask = (conv.flags & kMasked) ? mask_of_[index] : nullptr;
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
          run_depthwise(next, c, out + static_cast<int64_t>(c - first) * between.plane, y, end);
      }
    }
  };
  in_parallel(parts, part);
}

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
  if ((op.flags & kMasked) && from == 0) zero_between(t, out);
  const bool last_strip = to >= whole(op);
  const int y0 = static_cast<int>(from / t.stride);
  const int y1 = last_strip ? t.height : static_cast<int>(to / t.stride);

  switch (op.kind) {
    case kConv: {
      SparseJob job = sparse_job(op, out, t.channels);
      job.mask = inside;
      auto part = [&](int i, int n) {
        auto [first, last] = share(job.blocks, i, n);
        kernels.sparse(job, from, to, first, last);
      };
      in_parallel(std::min(threads, job.blocks), part);
      return;
    }
    case kAttention: {
      auto part = [&](int i, int n) {
        auto [first, last] = share(op.p[kHeads], i, n);
        for (int head = first; head < last; ++head) run_attention(op, inside, head);
      };
      in_parallel(std::min(threads, op.p[kHeads]), part);
      return;
    }
    case kJoin: {
      const int32_t at = op.p[0];
      const bool fill = op.p[1];
      auto part = [&](int i, int n) {
        auto [first, last] = share(t.channels, i, n);
        for (int c = first; c < last; ++c) {
          const float* plane = in + static_cast<int64_t>(c) * in_tensor->plane;
          float* to_plane = out + static_cast<int64_t>(c) * t.plane;
          for (int y = 0; y < in_tensor->height; ++y)
            std::memcpy(to_plane + at + static_cast<int64_t>(y) * in_tensor->width, plane + static_cast<int64_t>(y) * in_tensor->stride,
                        in_tensor->width * sizeof(float));
          if (!fill) continue;
          std::fill(to_plane + t.width, to_plane + t.stride, 0.0f);
          zero_tail(t, to_plane);
        }
      };
      in_parallel(threads, part);
      return;
    }
    case kConstant: {
      const auto* numbers = reinterpret_cast<const float*>(image + op.at[2]);
      for (int c = 0; c < t.channels; ++c) {
        float* plane = out + static_cast<int64_t>(c) * t.plane;
        fill_plane(numbers + static_cast<int64_t>(c) * t.height * t.width, t.width, t.height, t.width, t, plane, 0, t.height);
        zero_tail(t, plane);
      }
      return;
    }
    case kDepthwise: {
      auto part = [&](int i, int n) {
        auto [first, last] = share(t.channels, i, n);
        for (int c = first; c < last; ++c) run_depthwise(op, c, in + static_cast<int64_t>(c) * in_tensor->plane, 0, t.height);
      };
      in_parallel(std::min(threads, t.channels), part);
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
      const int spills = t.height - (kernels.vector + t.stride - 1) / t.stride - 1;
      auto part = [&](int i, int n) {
        auto [first, last] = share(channels, i, n);
        for (int c = first; c < last; ++c) {
          const float* from_plane = source + c * area;
          float* plane = out + static_cast<int64_t>(c) * phases * t.plane;
          if (op.flags & kRows) {
            for (int x = 0; x < width; ++x) plane[x] = source[static_cast<int64_t>(x) * channels + c];
            std::fill(plane + width, plane + t.stride, 0.0f);
            zero_tail(t, plane);
            continue;
          }
          if (sy == 1 && sx == 1) {
            fill_plane(from_plane, stride, height, width, t, plane, y0, y1);
            if (last_strip) zero_tail(t, plane);
            continue;
          }
          int kept = 0;
          for (int a = 0; a < sy; ++a) {
            float* places[30] = {};  // of this row's phases
            bool any = false;
            for (int b = 0; b < sx; ++b)
              if (op.p[kMaskOf] >> (a * sx + b) & 1) {
                places[b] = plane + static_cast<int64_t>(kept++) * t.plane;
                any = true;
              }
            if (!any) continue;
            for (int y = y0; y < y1; ++y) {
              const int from_y = y * sy + a;
              float* rows[30];
              for (int b = 0; b < sx; ++b) rows[b] = places[b] ? places[b] + static_cast<int64_t>(y) * t.stride : nullptr;
              // What is written after a row is overwritten by the next ones, as long as they lie in this plane.
              if (from_y < height) kernels.split_row(from_plane + from_y * stride, width, sx, rows, !outside, y < spills);
              for (int b = 0; b < sx; ++b) {
                if (!rows[b]) continue;
                const int filled = from_y < height && b < width ? (width - b + sx - 1) / sx : 0;
                std::fill(rows[b] + filled, rows[b] + t.stride, 0.0f);
              }
            }
            if (last_strip)
              for (int b = 0; b < sx; ++b)
                if (places[b]) zero_tail(t, places[b]);
          }
        }
      };
      in_parallel(threads, part);
      return;
    }
    case kLinear: {
      const auto* starts = reinterpret_cast<const int32_t*>(image + op.at[0]);
      const auto* entries = reinterpret_cast<const Entry<1>*>(image + op.at[1]);
      const auto* bias = reinterpret_cast<const float*>(image + op.at[3]);
      // Channels side by side: in their planes each would be a cache line of its own.
      std::vector<float> packed(in_tensor->channels);
      for (int c = 0; c < in_tensor->channels; ++c) packed[c] = in[static_cast<int64_t>(c) * in_tensor->plane];
      auto part = [&](int i, int n) {
        auto [first, last] = share(t.channels, i, n);
        kernels.dots(starts, entries, bias, packed.data(), out, t.plane, first, last);
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
      const int length = std::max((t.width + 16) * sw + kw, pw + in_tensor->width) + 32;  // whole vectors
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
      const int64_t positions = round_up(static_cast<int64_t>(in_tensor->height) * in_tensor->stride, 16);
      auto part = [&](int i, int n) {
        auto [first, last] = share(t.channels, i, n);
        for (int c = first; c < last; ++c) {
          const double sum = kernels.sum(in + static_cast<int64_t>(c) * in_tensor->plane, mask_of_[index], positions);
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
            const int channel = (op.flags & kPerPosition) ? 0 : c;
            const float* z = base + second.base + static_cast<int64_t>(channel) * second.plane;
            if (op.flags & kPerChannel)
              kernels.scale(x, *z, y, to - from);
            else
              (op.kind == kMul ? kernels.mul : op.flags & kSubtract ? kernels.subtract : kernels.add)(x, z + from, y, to - from);
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
            if (y % fy) {
              std::memcpy(row, row - t.stride, t.stride * sizeof(float));
              continue;
            }
            kernels.repeat_row(x, in_tensor->width, fx, row);
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
