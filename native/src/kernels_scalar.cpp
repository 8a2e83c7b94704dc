// The kernels for the level "scalar": CMakeLists.txt gives this file its instructions.
#define PODAR_LEVEL level_of_scalar
#define PODAR_NAME "scalar"
#define PODAR_VECTOR 1
#define PODAR_REGISTERS 16
#define PODAR_FUNCTION level_scalar
#include "kernels.inc"
