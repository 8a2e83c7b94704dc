// The kernels for the level "avx512": CMakeLists.txt gives this file its instructions.
#define PODAR_LEVEL level_of_avx512
#define PODAR_NAME "avx512"
#define PODAR_VECTOR 16
#define PODAR_REGISTERS 32
#define PODAR_FUNCTION level_avx512
#include "kernels.inc"
