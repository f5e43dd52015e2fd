#if defined(__x86_64__)
#include "cpu/vec_avx2.h"

#include "cpu/add_rms_norm_kernel.h"
#endif
