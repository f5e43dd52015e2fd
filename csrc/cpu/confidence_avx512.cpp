#if defined(__x86_64__)
#include "cpu/vec_avx512.h"

#include "cpu/confidence_kernel.h"
#endif
