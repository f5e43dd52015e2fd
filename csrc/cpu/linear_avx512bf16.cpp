#if defined(__x86_64__)
#include "cpu/vec_avx512.h"

#undef DPAD_ISA
#define DPAD_ISA(name) name##_avx512bf16

#include "cpu/linear_kernel.h"
#endif
