#include "cpu/vec_portable.h"

#include "cpu/int8_linear_kernel.h"
