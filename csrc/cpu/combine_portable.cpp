#include "cpu/vec_portable.h"

#include "cpu/combine_kernel.h"
