// What the engine asks of a vector level: one table of functions per level, filled by kernels.inc.
#pragma once
#include <cstdint>

namespace podar {

// One step of a list: the weights of `Rows` output channels, and where what they multiply lies.
template <int Rows>
struct alignas(Rows == 1 ? 8 : 4) Entry {
  float weights[Rows];
  int32_t offset;
};

// out[o, p] = act(bias[o] + Σ w·in[p + off]) over lists of entries (w, off), for flattened positions p.
struct SparseJob {
  const float* in;
  float* out;
  const float* residual;  // or null
  const float* bias;      // one for each row of each block
  const uint32_t* mask;   // all ones where a position is inside the image, or null where pads may hold anything
  const int32_t* starts;  // [input blocks][output blocks + 1]
  const void* entries;    // Entry<rows>
  int64_t out_plane, residual_plane;
  int32_t out_first;  // the channel that lies at `out`
  int32_t channels, blocks, input_blocks, rows, tile, act, residual_after;
  float a, b;
};

// One channel of a depthwise convolution with a square kernel of 3, 5 or 7 and a step of 1 or 2, over rows: `in` is where
// the first window begins (in the zeros before the plane), what lies after each row of `out` becomes zero.
struct DepthwiseJob {
  const float* in;
  float* out;
  const float* weights;           // kernel × kernel
  const uint32_t* first_columns;  // all ones in the first `width` of 16 places
  const uint32_t* mask;           // all ones where a position of `out` is inside the image
  int64_t in_stride, out_stride;
  int32_t height, width, kernel, step, act;
  float bias, a, b;
};

typedef uint32_t __attribute__((may_alias)) Word;

// out[r, k] = values[rows[r], chosen[k]] where `chosen` rises: `counts` of each whole vector of a row are chosen, and
// `places` (a vector each) begins with where in it they are.
struct PackJob {
  const Word* values;
  int64_t columns;
  const int64_t* rows;
  int64_t n_rows;
  const int64_t* chosen;
  int64_t n_chosen;
  const int32_t *places, *counts;
  Word* out;
};

struct Level {
  const char* name;
  int vector;  // floats
  // Positions from..to (multiples of the vector) of output blocks first..last.
  void (*sparse)(const SparseJob& job, int64_t from, int64_t to, int32_t first, int32_t last);
  void (*activate)(float* x, int64_t n, int32_t act, float a, float b);
  // y[o] = bias[o] + Σ w·x[off] over lists of entries, one position
  void (*dots)(const int32_t* starts, const Entry<1>* entries, const float* bias, const float* x, float* y, int64_t y_step,
               int32_t first, int32_t last);
  void (*add)(const float* x, const float* y, float* out, int64_t n);
  void (*subtract)(const float* x, const float* y, float* out, int64_t n);
  void (*mul)(const float* x, const float* y, float* out, int64_t n);
  void (*scale)(const float* x, float s, float* out, int64_t n);
  void (*keep)(float* x, const uint32_t* mask, int64_t n);
  // One output row of a pooling window, the maximum or the sum: over `rows` input rows of `width`, then over `columns`
  // columns of scratch, which holds the neutral value in its `pad` first places and after pad + width. Rows are read, and
  // scratch written, in whole vectors.
  void (*max_row)(const float* const* rows, int n_rows, int width, float* scratch, int pad, int columns, int step,
                  float* out, int n);
  void (*sum_row)(const float* const* rows, int n_rows, int width, float* scratch, int pad, int columns, int step,
                  float* out, int n);
  void (*split_row)(const float* in, int width, int step, float* const* places, bool reads, bool writes);
  void (*repeat_row)(const float* in, int width, int factor, float* out);
  void (*depthwise)(const DepthwiseJob& job, int32_t from, int32_t to);  // rows of the output
  double (*sum)(const float* x, const uint32_t* mask, int64_t n);
  void (*exponentials)(float* planes, int64_t plane, int32_t count, float* inverse, int64_t n);
  void (*square_sums)(const float* x, int64_t rows, int64_t width, float* of_rows, float* of_columns);
  void (*pack)(const PackJob& job);
};

const Level* level_scalar();
const Level* level_base();  // SSE2 on x86-64, NEON on aarch64, whatever the compiler knows elsewhere
#if defined(__x86_64__) || defined(_M_X64)
const Level* level_avx2();
const Level* level_avx512();
#endif

}  // namespace podar
