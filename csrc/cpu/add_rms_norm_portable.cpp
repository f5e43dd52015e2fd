#include "cpu/vec_portable.h"

#include "cpu/add_rms_norm_kernel.h"
