// What int8_linear.cpp hands to the kernel of the selected instruction set.
#pragma once

#include "cpu/isa.h"
#include "params.h"

namespace dpad::cpu {

// Blocking: kInt8Rows rows of x against kInt8Panel rows of the weight, kInt8Depth words of the sum
// at a time.
constexpr int64_t kInt8Rows = 128, kInt8Panel = 240, kInt8Depth = 128;

// Elements of the second stage's scratch: sums (the last block of a panel may reach over it by 16),
// one block of the weight.
constexpr int64_t kInt8Scratch = kInt8Rows * (kInt8Panel + 16) + 16 * kInt8Depth;

// Packed rows are [tile][words of a row][lanes of a tile]; these are the lanes, and the elements of
// a word.
struct Int8Layout {
  int64_t lanes, group;
};

DPAD_DECLARE_ISA(Int8Layout, int8_layout);
Int8Layout int8_layout_avx512vnni();

// Tile `tile` of the rows: quantised, packed, with the scale and the sum of each row.
DPAD_DECLARE_ISA(void, int8_tile, const Int8LinearParams& p, int64_t tile, float* scratch);
void int8_tile_avx512vnni(const Int8LinearParams& p, int64_t tile, float* scratch);

// Rows [first, first + rows) of x, rows <= kInt8Rows, times rows [begin, end) of the weight, at
// most kInt8Panel.
DPAD_DECLARE_ISA(void, int8_panel, const Int8LinearParams& p, int64_t first, int64_t rows,
                 int64_t begin, int64_t end, float* scratch);
void int8_panel_avx512vnni(const Int8LinearParams& p, int64_t first, int64_t rows, int64_t begin,
                           int64_t end, float* scratch);

}  // namespace dpad::cpu
