// Which vector levels this processor (and its operating system) can run.
#include "engine.h"

namespace podar {

std::vector<const Level*> levels() {
  std::vector<const Level*> found;
#if defined(PODAR_AVX)  // CMakeLists.txt: its kernels are part of this build
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
    found.push_back(level_avx512());
  if (avx2) found.push_back(level_avx2());
#endif
  found.push_back(level_base());
  found.push_back(level_scalar());
  return found;
}

}  // namespace podar
