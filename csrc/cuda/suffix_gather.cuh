// Token of one row of a pass.
#pragma once

#include "cuda/block.cuh"
#include "cuda/rows.cuh"
#include "params.h"

namespace dpad::cuda {

// A row whose sequence, canvas row or position is out of range reads as mask_id: a token that every
// embedding has, so that a bad plan never becomes a device assert further on.
DPAD_HOST_DEVICE inline int64_t suffix_gather_row(const SuffixGatherParams& p, int64_t row) {
  const int64_t b = sequence_of(p.q_offsets, p.batch, row);
  if (b < 0) return p.mask_id;
  const int64_t position = p.position[row], canvas_row = p.canvas_row[b];
  if (!inside(position, p.length) || !inside(canvas_row, p.canvas_rows)) return p.mask_id;
  if (p.hidden_until != nullptr && position < p.hidden_until[b]) return p.mask_id;
  return p.canvas[canvas_row * p.canvas_stride + position];
}

DPAD_KERNEL(kThreads, 4) suffix_gather_kernel(const SuffixGatherParams p) {
  const int64_t step = grid_x() * kThreads;
  for (int64_t row = block_x() * kThreads + thread_index(); row < p.rows; row += step) {
    p.out[row] = suffix_gather_row(p, row);
  }
}

}  // namespace dpad::cuda
