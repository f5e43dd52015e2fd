#include "cpu/vec_portable.h"

#include "cpu/rope_kv_write_kernel.h"
