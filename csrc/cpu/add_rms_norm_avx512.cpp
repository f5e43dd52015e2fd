#if defined(__x86_64__)
#include "cpu/vec_avx512.h"

#include "cpu/add_rms_norm_kernel.h"
#endif
