#include "cpu/vec_portable.h"

#include "cpu/linear_kernel.h"
