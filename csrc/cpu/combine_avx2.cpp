#if defined(__x86_64__)
#include "cpu/vec_avx2.h"

#include "cpu/combine_kernel.h"
#endif
