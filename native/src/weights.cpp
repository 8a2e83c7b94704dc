// What pruning does to every weight of a network: sums of squares, and copies of chosen rows and columns.
#include <algorithm>
#include <cstring>
#include <vector>

#include "engine.h"
#include "podar_native.h"

namespace {

constexpr int64_t kBlock = 256;  // rows whose squares are summed in single precision before they are added to the rest

// Of one row, items of `Bytes` at the places in `columns`. What will be taken from the next row (or null) is asked for
// meanwhile: the processor does not foresee where that row lies.
template <int Bytes>
void pick(const uint8_t* row, const uint8_t* next, const int64_t* columns, int64_t count, int64_t, uint8_t* out) {
  constexpr int64_t step = Bytes < 32 ? 8 : 1;  // neighbours that are small share a line of the cache
  int64_t i = 0;
  for (; next && i + step <= count; i += step) {
    for (int64_t at = 0; at < Bytes; at += 64) __builtin_prefetch(next + columns[i] * Bytes + at, 0, 2);
    for (int64_t k = i; k < i + step; ++k) std::memcpy(out + k * Bytes, row + columns[k] * Bytes, Bytes);
  }
  for (; i < count; ++i) std::memcpy(out + i * Bytes, row + columns[i] * Bytes, Bytes);
}

void pick_any(const uint8_t* row, const uint8_t*, const int64_t* columns, int64_t count, int64_t bytes, uint8_t* out) {
  for (int64_t i = 0; i < count; ++i) std::memcpy(out + i * bytes, row + columns[i] * bytes, static_cast<size_t>(bytes));
}

// Items of one number, and of filters of 3 × 3, 5 × 5 and 7 × 7 floats: a copy of known size takes a few instructions.
auto picker(int64_t bytes) {
  switch (bytes) {
    case 2: return pick<2>;
    case 4: return pick<4>;
    case 8: return pick<8>;
    case 36: return pick<36>;
    case 100: return pick<100>;
    case 196: return pick<196>;
    default: return pick_any;
  }
}

bool rises(const int64_t* x, int64_t n) {
  for (int64_t i = 1; i < n; ++i)
    if (x[i] <= x[i - 1]) return false;
  return true;
}

}  // namespace

void podar::pack(const Level& level, PackJob job) {
  const int64_t vector = level.vector, blocks = job.columns / vector;
  std::vector<int32_t> places(static_cast<size_t>(blocks * vector)), counts(static_cast<size_t>(blocks));
  for (int64_t k = 0; k < job.n_chosen && job.chosen[k] < blocks * vector; ++k) {
    const int64_t block = job.chosen[k] / vector;
    places[block * vector + counts[block]++] = static_cast<int32_t>(job.chosen[k] - block * vector);
  }
  job.places = places.data();
  job.counts = counts.data();
  level.pack(job);
}

extern "C" {

void podar_square_sums(const float* values, int64_t groups, int64_t rows, int64_t width, float* of_rows, float* of_columns) {
  static const podar::Level* level = podar::levels().front();
  std::fill(of_columns, of_columns + groups * width, 0.0f);
  std::vector<float> block(rows > kBlock ? static_cast<size_t>(width) : 0);
  for (int64_t g = 0; g < groups; ++g, values += rows * width, of_rows += rows, of_columns += width) {
    if (block.empty()) {
      level->square_sums(values, rows, width, of_rows, of_columns);
      continue;
    }
    for (int64_t r = 0; r < rows; r += kBlock) {
      std::fill(block.begin(), block.end(), 0.0f);
      level->square_sums(values + r * width, std::min(kBlock, rows - r), width, of_rows + r, block.data());
      level->add(of_columns, block.data(), of_columns, width);
    }
  }
}

void podar_take(const void* values, int64_t columns, int64_t bytes, const int64_t* rows, int64_t n_rows, const int64_t* chosen,
                int64_t n_chosen, void* out) {
  static const podar::Level* level = podar::levels().front();
  if (bytes == sizeof(podar::Word) && n_chosen > columns / 8 && rises(chosen, n_chosen))
    return pack(*level, {static_cast<const podar::Word*>(values), columns, rows, n_rows, chosen, n_chosen, nullptr, nullptr,
                         static_cast<podar::Word*>(out)});
  const auto picked = picker(bytes);
  uint8_t* to = static_cast<uint8_t*>(out);
  const int64_t row = columns * bytes;
  const uint8_t* from = static_cast<const uint8_t*>(values);
  for (int64_t i = 0; i < n_rows; ++i, to += n_chosen * bytes)
    picked(from + rows[i] * row, i + 1 < n_rows ? from + rows[i + 1] * row : nullptr, chosen, n_chosen, bytes, to);
}
}
