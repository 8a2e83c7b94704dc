// An operator at work: where its tensors lie and which of its positions are asked for; a function for each kind.
#pragma once
#include <utility>

#include "format.h"
#include "kernels.h"

namespace podar {

// Operators' parameters by name.
enum Conv { kRowsOf, kBlocks, kInputBlocks, kTile, kEntries, kReach };
enum Phase { kStepY, kStepX, kPhases, kIndex, kMaskOf };
enum Pool { kHigh, kWide, kDown, kAcross, kPadY, kPadX };
enum Attention { kHeads, kKeys, kValues, kFirstQ, kStepQ, kFirstK, kStepK, kFirstV, kStepV };
enum Depthwise { kKernel, kStep, kAbove, kBefore };
constexpr int kChain = 11, kStripOf = 10;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Channels `first` to `last` of part i of n.
inline std::pair<int32_t, int32_t> share(int32_t count, int i, int n) {
  return {static_cast<int32_t>(static_cast<int64_t>(count) * i / n),
          static_cast<int32_t>(static_cast<int64_t>(count) * (i + 1) / n)};
}

struct Work {
  const Op& op;
  const Level& kernels;
  const uint8_t* image;     // the file, with the weights
  const Tensor* tensors;
  const float* base;        // of the arena
  const Tensor* in_tensor;  // null for an input and a constant
  const float* in;
  const Tensor& t;          // what is written; of an output, what is given back
  float* out;
  const uint32_t* mask;     // all ones where a position is inside the image; null where the operator needs none
  int64_t positions;        // of the whole result, in vectors
  int64_t from, to;         // those that are asked for
  int threads;

  bool last_strip() const { return to >= positions; }
  int first_row() const { return static_cast<int>(from / t.stride); }
  int last_row() const { return last_strip() ? t.height : static_cast<int>(to / t.stride); }
  const uint32_t* inside() const { return op.flags & kMasked ? mask : nullptr; }

  void convolve() const;
  void depthwise() const;
  void linear() const;
  void attend() const;
  void phases() const;
  void pool() const;
  void mean() const;
  void elementwise() const;
  void copy() const;
  void upsample() const;
  void join() const;
  void constant() const;
  void give() const;

  // A convolution's job for `channels` outputs from `out_` on.
  SparseJob sparse_job(float* out_, int32_t channels) const;
  // Rows of one channel, read from `plane`.
  void depthwise_rows(int32_t channel, const float* plane, int32_t from_row, int32_t to_row) const;
  void attend_head(int32_t head) const;
};

void zero_tail(const Tensor& t, float* plane);
void zero_between(const Tensor& t, float* planes);

}  // namespace podar
