// Reductions over a block, in a fixed order.
#pragma once

#include "cuda/simt.cuh"

namespace dpad::cuda {

inline constexpr int kThreads = 256;

struct Sum {
  template <class V>
  DPAD_DEVICE V operator()(V a, V b) const {
    return a + b;
  }
};

struct Largest {
  template <class V>
  DPAD_DEVICE V operator()(V a, V b) const {
    return a > b ? a : b;
  }
};

// Over the lanes that differ in the bits of `lanes` and below; each of them gets it.
template <class Op, class V>
DPAD_DEVICE V warp_reduce(V x, Op op, int lanes = 16) {
  DPAD_UNROLL
  for (; lanes > 0; lanes /= 2) x = op(x, warp_xor(x, lanes));
  return x;
}

// Over the kThreads threads of a block; every thread gets it.
template <class Op, class V>
DPAD_DEVICE V block_reduce(V x, Op op) {
  constexpr int kWarps = kThreads / 32;
  DPAD_SHARED V of_warp[kWarps];
  x = warp_reduce(x, op);
  block_sync();  // the results of the block's previous reduction have been read
  if (thread_index() % 32 == 0) of_warp[thread_index() / 32] = x;
  block_sync();
  return warp_reduce(of_warp[thread_index() % kWarps], op, kWarps / 2);
}

// The sum of what the threads before this one hand in, of kThreads.
template <class V>
DPAD_DEVICE V block_prefix(V x) {
  DPAD_SHARED V of_warp[kThreads / 32];
  const int lane = thread_index() % 32, warp = thread_index() / 32;
  V sum = x;  // of the lanes up to this one
  DPAD_UNROLL
  for (int step = 1; step < 32; step *= 2) {
    const V below = warp_from(sum, lane - step);
    if (lane >= step) sum += below;
  }
  block_sync();  // the results of the block's previous sum have been read
  if (lane == 31) of_warp[warp] = sum;
  block_sync();
  for (int w = 0; w < warp; ++w) sum += of_warp[w];
  return sum - x;
}

// sequence_of() for a row that is the same in the whole warp: every lane looks at another sequence,
// so that nothing waits for one load after the other.
DPAD_DEVICE int64_t warp_sequence_of(const int64_t* offsets, int64_t batch, int64_t row) {
  DPAD_NO_UNROLL
  for (int64_t first = 0; first < batch; first += 32) {
    const int64_t b = first + thread_index() % 32;
    const bool here = b < batch && offsets[b] <= row && row < offsets[b + 1];
    const int found = highest_lane(warp_votes(here));
    if (found >= 0) return first + found;
  }
  return -1;
}

}  // namespace dpad::cuda
