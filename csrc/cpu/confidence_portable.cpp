#include "cpu/vec_portable.h"

#include "cpu/confidence_kernel.h"
