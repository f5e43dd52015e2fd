#if defined(__x86_64__)
#include "cpu/vec_avx512.h"

#include "cpu/rope_kv_write_kernel.h"
#endif
