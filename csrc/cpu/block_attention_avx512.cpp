#if defined(__x86_64__)
#include "cpu/vec_avx512.h"

#include "cpu/block_attention_kernel.h"
#endif
