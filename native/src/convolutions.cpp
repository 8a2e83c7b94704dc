// Convolutions and linear layers: jobs for the kernels, shared among threads by output channels.
#include <algorithm>
#include <array>
#include <vector>

#include "threads.h"
#include "work.h"

namespace podar {

SparseJob Work::sparse_job(float* out_, int32_t channels) const {
  SparseJob job;
  job.in = in;
  job.out = out_;
  job.out_first = 0;
  job.residual = op.in2 >= 0 ? base + tensors[op.in2].base : nullptr;
  job.residual_plane = op.in2 >= 0 ? tensors[op.in2].plane : 0;
  job.starts = reinterpret_cast<const int32_t*>(image + op.at[0]);
  job.entries = image + op.at[1];
  job.bias = reinterpret_cast<const float*>(image + op.at[3]);
  job.mask = inside();
  job.out_plane = t.plane;
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

void Work::convolve() const {
  const SparseJob job = sparse_job(out, t.channels);
  auto part = [&](int i, int n) {
    auto [first, last] = share(job.blocks, i, n);
    kernels.sparse(job, from, to, first, last);
  };
  in_parallel(std::min(threads, job.blocks), part);
}

void Work::depthwise_rows(int32_t channel, const float* plane, int32_t from_row, int32_t to_row) const {
  const int area = op.p[kKernel] * op.p[kKernel];
  DepthwiseJob job;
  job.in = plane - static_cast<int64_t>(op.p[kAbove]) * in_tensor->stride - op.p[kBefore];
  job.out = out + static_cast<int64_t>(channel) * t.plane;
  job.weights = reinterpret_cast<const float*>(image + op.at[2]) + static_cast<int64_t>(channel) * area;
  job.bias = reinterpret_cast<const float*>(image + op.at[3])[channel];
  static constexpr auto columns = [] {
    std::array<uint32_t, 32> ones{};
    for (int i = 0; i < 16; ++i) ones[i] = ~uint32_t{0};
    return ones;
  }();
  job.first_columns = columns.data() + 16 - std::min(t.width, 16);
  job.mask = mask;
  job.in_stride = in_tensor->stride;
  job.out_stride = t.stride;
  job.height = t.height;
  job.width = t.width;
  job.kernel = op.p[kKernel];
  job.step = op.p[kStep];
  job.act = op.act;
  job.a = op.a;
  job.b = op.b;
  kernels.depthwise(job, from_row, to_row);
  if (to_row == t.height) zero_tail(t, job.out);
}

void Work::depthwise() const {
  auto part = [&](int i, int n) {
    auto [first, last] = share(t.channels, i, n);
    for (int c = first; c < last; ++c) depthwise_rows(c, in + static_cast<int64_t>(c) * in_tensor->plane, 0, t.height);
  };
  in_parallel(std::min(threads, t.channels), part);
}

void Work::linear() const {
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
}

}  // namespace podar
