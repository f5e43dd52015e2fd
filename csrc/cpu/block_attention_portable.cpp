#include "cpu/vec_portable.h"

#include "cpu/block_attention_kernel.h"
