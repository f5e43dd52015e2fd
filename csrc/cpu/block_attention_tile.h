// What block_attention.cpp hands to the kernel of the selected instruction set.
#pragma once

#include "cpu/isa.h"
#include "params.h"

namespace dpad::cpu {

constexpr int64_t kTileRows = 32;  // rows of one work item
constexpr int64_t kTileKeys = 96;  // keys per step of the online soft-max; same on every machine

// Rows of one key/value head: row r is query r / group of the sequence, head r % group of the
// group.
struct AttentionTile {
  int64_t sequence;
  int64_t kv_head;
  int64_t first;  // of the sequence's rows
  int64_t count;  // <= kTileRows
};

// Upper bounds of the kernels' register blocks and panels.
constexpr int64_t kMaxBlock = 16, kMaxPanel = 24;

// Elements of `scratch`, which is aligned to 64 bytes: queries, results, scores and widened
// elements.
constexpr int64_t attention_scratch(int64_t head_dim) {
  return (2 * kTileRows + kMaxBlock) * head_dim + kTileKeys * (kTileRows + kMaxPanel);
}

DPAD_DECLARE_ISA(void, attend, const BlockAttentionParams& p, const AttentionTile& tile,
                 float* scratch);

}  // namespace dpad::cpu
