#if defined(__x86_64__)
#include "cpu/vec_avx512.h"

#undef DPAD_ISA
#define DPAD_ISA(name) name##_avx512vnni

#include "cpu/int8_linear_kernel.h"
#endif
