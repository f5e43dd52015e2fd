// What rope_kv_write.cpp hands to the kernel of the selected instruction set.
#pragma once

#include "cpu/isa.h"
#include "params.h"

namespace dpad::cpu {

// Rotates `heads` heads of one row. Strides between heads in elements.
DPAD_DECLARE_ISA(void, rotate_heads, const RopeKvWriteParams& p, int64_t position, int64_t heads,
                 const void* from, int64_t from_stride, void* to, int64_t to_stride);

}  // namespace dpad::cpu
