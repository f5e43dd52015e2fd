#if defined(__x86_64__)
#include "cpu/vec_avx512.h"

#include "cpu/int8_linear_kernel.h"
#endif
