// The memory of the activations.
#include <sys/mman.h>
#include <unistd.h>

#include "engine.h"

namespace podar {

Arena::Arena(size_t floats) : floats_(floats) {
  // The last float ends at the guard page, so that a read past it stops the tests; the first is 64-aligned.
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t huge = size_t{2} << 20;
  const size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
  const size_t inner = (bytes + page - 1) / page * page;
  mapped_bytes_ = inner + huge + 2 * page;
  mapped_ = mmap(nullptr, mapped_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped_ == MAP_FAILED) throw Refused("no memory for " + std::to_string(bytes) + " bytes of activations");
  const uintptr_t start = reinterpret_cast<uintptr_t>(mapped_) + page;
  const uintptr_t aligned = (start + huge - 1) / huge * huge;
  if (mprotect(reinterpret_cast<void*>(aligned), inner, PROT_READ | PROT_WRITE) != 0) {
    munmap(mapped_, mapped_bytes_);
    throw Refused("no memory for " + std::to_string(bytes) + " bytes of activations");
  }
#ifdef MADV_HUGEPAGE
  madvise(reinterpret_cast<void*>(aligned), inner, MADV_HUGEPAGE);  // a wish: fewer misses of the page tables' cache
#endif
  begin_ = reinterpret_cast<float*>(aligned + (inner - bytes));
}

Arena::~Arena() { munmap(mapped_, mapped_bytes_); }

}  // namespace podar
