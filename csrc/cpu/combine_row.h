// What combine.cpp hands to the kernel of the selected instruction set.
#pragma once

#include "cpu/isa.h"
#include "params.h"

namespace dpad::cpu {

// One row, whose pairs stand at `place` [top_k] and are added in that order.
DPAD_DECLARE_ISA(void, combine_row, const CombineParams& p, int64_t row, const int64_t* place,
                 const float* weight);

}  // namespace dpad::cpu
