// The kernels for what every processor of this architecture has: SSE2 on x86-64, NEON on aarch64.
#define PODAR_LEVEL level_of_base
#define PODAR_VECTOR 4
#define PODAR_FUNCTION level_base
#if defined(__aarch64__)
#define PODAR_NAME "neon"
#define PODAR_REGISTERS 32
#else
#if defined(__x86_64__)
#define PODAR_NAME "sse2"
#else
#define PODAR_NAME "base"
#endif
#define PODAR_REGISTERS 16
#endif
#include "kernels.inc"
