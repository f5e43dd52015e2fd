#include "cpu/vec_portable.h"

#include "cpu/swiglu_kernel.h"
