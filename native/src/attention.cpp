// Attention over the channels of one tensor: two dense products and a softmax for each head.
#include <algorithm>
#include <vector>

#include "threads.h"
#include "work.h"

namespace podar {

// One head: scores [keys][queries] = kᵀq and then v · softmax of them, both by the kernel of dense blocks, with the numbers
// of k and v as its weights; positions of queries lie side by side all the way.
void Work::attend_head(int32_t head) const {
  const Tensor& from = *in_tensor;
  const int32_t keys = from.height * from.width, depth = op.p[kKeys], values = op.p[kValues];
  const int64_t n = positions;
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
  kernels.sparse(job, 0, n, 0, key_blocks);
  kernels.exponentials(scores.data(), n, keys, inverse.data(), n);

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
  job.out = out + static_cast<int64_t>(head) * values * t.plane;
  job.out_plane = t.plane;
  job.channels = values;
  job.blocks = value_blocks;
  kernels.sparse(job, 0, n, 0, value_blocks);
  for (int32_t d = 0; d < values; ++d) {
    float* y = job.out + static_cast<int64_t>(d) * t.plane;
    kernels.mul(y, inverse.data(), y, n);
    if (inside()) kernels.keep(y, inside(), n);
  }
}

void Work::attend() const {
  auto part = [&](int i, int n) {
    auto [first, last] = share(op.p[kHeads], i, n);
    for (int head = first; head < last; ++head) attend_head(head);
  };
  in_parallel(std::min(threads, op.p[kHeads]), part);
}

}  // namespace podar
