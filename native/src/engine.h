// An opened program: its tables, the arena of its activations, and what runs its operators.
#pragma once
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "format.h"
#include "kernels.h"
#include "work.h"

namespace podar {

struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Zeroed pages for the activations, in huge pages where the system gives them, guarded on both sides.
class Arena {
 public:
  explicit Arena(size_t floats);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  float* begin() const { return begin_; }
  size_t floats() const { return floats_; }

 private:
  size_t floats_;
  void* mapped_;
  size_t mapped_bytes_;
  float* begin_;
};

struct Engine {
  Engine(const void* image, size_t bytes, const char* level);
  void run(const float* const* inputs, float* const* outputs, int64_t batch, int threads, int64_t* nanoseconds);
  int64_t floats(const Op& op) const;

  const uint8_t* image;
  size_t bytes;
  Header header;
  std::vector<Tensor> tensors;
  std::vector<Op> ops;
  std::vector<int> inputs, outputs;  // operators, in the order of the arguments
  const Level* level;

 private:
  void run_op(int index, int64_t from, int64_t to, int threads);
  void run_pair(int index, int threads);
  Work work(int index, int64_t from, int64_t to, int threads) const;
  void run_chain(int first, int last, int threads, int64_t* nanoseconds);
  int64_t whole(const Op& op) const;
  int64_t needed(const Op& op, int64_t to) const;
  const uint32_t* mask(const Op& op) const;
  void check() const;
  void check_op(size_t index) const;

  std::unique_ptr<Arena> arena_;
  std::map<std::tuple<int, int, int>, std::vector<uint32_t>> masks_;
  std::vector<const uint32_t*> mask_of_;
  std::vector<std::unique_ptr<Arena>> scratch_;  // of the threads after the first, for pairs
  std::vector<int64_t> progress_;
  std::vector<int> producer_;  // of each tensor inside a chain, or −1
  const float* const* in_ = nullptr;
  float* const* out_ = nullptr;
  int64_t image_index_ = 0;
  std::mutex busy_;
};

std::vector<const Level*> levels();  // that this processor runs, best first

// Carries out a job of which `places` and `counts` are still to be worked out.
void pack(const Level& level, PackJob job);

}  // namespace podar
