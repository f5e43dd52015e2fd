// What linear.cpp hands to the kernel of the selected instruction set.
#pragma once

#include "cpu/isa.h"
#include "params.h"

namespace dpad::cpu {

// Blocking: kLinearRows rows of x against kLinearPanel rows of the weight, kLinearDepth elements of
// the sum at a time (four times as many where rows are few).
constexpr int64_t kLinearRows = 128, kLinearPanel = 240, kLinearDepth = 256;
// Products that are added to each other before they are added to the sum: short chains keep the
// rounding error of long sums small. Part of the result's bits; divides kLinearDepth.
constexpr int64_t kLinearChain = 128;

// Elements of `scratch`, which is aligned to 64 bytes: packed rows, sums (the last block of a panel
// may reach over it by 16), one block of the weight widened; behind them the sums of a gate.
constexpr int64_t kLinearSums = kLinearRows * (kLinearPanel + 16);
constexpr int64_t kLinearScratch = kLinearRows * kLinearDepth + kLinearSums + 16 * kLinearDepth;

// Rows [first, first + rows) of x, rows <= kLinearRows, times rows [begin, end) of the weight, at
// most kLinearPanel.
DPAD_DECLARE_ISA(void, linear_panel, const LinearParams& p, int64_t first, int64_t rows,
                 int64_t begin, int64_t end, float* scratch);

// The same for bfloat16 where pairs of it have an instruction; in_features and the strides of x and
// the weight are even.
void linear_panel_avx512bf16(const LinearParams& p, int64_t first, int64_t rows, int64_t begin,
                             int64_t end, float* scratch);

}  // namespace dpad::cpu
