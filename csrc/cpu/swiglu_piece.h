// What swiglu.cpp hands to the kernel of the selected instruction set.
#pragma once

#include "cpu/isa.h"
#include "params.h"

namespace dpad::cpu {

// Columns [begin, end) of one row.
DPAD_DECLARE_ISA(void, swiglu_piece, const SwigluParams& p, int64_t row, int64_t begin,
                 int64_t end);

}  // namespace dpad::cpu
