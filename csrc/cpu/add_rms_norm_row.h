// What add_rms_norm.cpp hands to the kernel of the selected instruction set.
#pragma once

#include "cpu/isa.h"
#include "params.h"

namespace dpad::cpu {

DPAD_DECLARE_ISA(void, add_rms_norm_row, const AddRmsNormParams& p, int64_t row);

}  // namespace dpad::cpu
