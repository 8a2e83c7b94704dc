// The kernels for the level "avx2": CMakeLists.txt gives this file its instructions.
#define PODAR_LEVEL level_of_avx2
#define PODAR_NAME "avx2"
#define PODAR_VECTOR 8
#define PODAR_REGISTERS 16
#define PODAR_FUNCTION level_avx2
#include "kernels.inc"
