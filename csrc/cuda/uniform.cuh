// One uniform draw per logit row.
#pragma once

#include "core/gumbel.h"
#include "core/rows.h"
#include "cuda/block.cuh"
#include "params.h"

namespace dpad::cuda {

// A row without a sequence becomes a NaN, which ends as a status.
DPAD_KERNEL(kThreads, 4) uniform_kernel(const UniformParams p) {
  const int64_t step = grid_x() * kThreads;
  for (int64_t row = block_x() * kThreads + thread_index(); row < p.rows; row += step) {
    const int64_t b = sequence_of(p.l_offsets, p.batch, row);
    p.out[row] = b < 0 ? NAN : order_draw(p.rng + 3 * b, p.position[row]);
  }
}

}  // namespace dpad::cuda
