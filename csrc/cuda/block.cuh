// Reductions over a block and over the blocks of a group, in a fixed order.
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

template <class Op, class V>
DPAD_DEVICE V warp_reduce(V x, Op op) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x = op(x, warp_xor(x, lanes));
  return x;
}

// Over the kThreads threads of a block; every thread gets it.
template <class Op, class V>
DPAD_DEVICE V block_reduce(V x, Op op, V neutral) {
  DPAD_SHARED V of_warp[kThreads / 32];
  const int lane = thread_index() % 32, warp = thread_index() / 32;
  x = warp_reduce(x, op);
  block_sync();  // the results of the block's previous reduction have been read
  if (lane == 0) of_warp[warp] = x;
  block_sync();
  return warp_reduce(lane < kThreads / 32 ? of_warp[lane] : neutral, op);
}

// True in the block that is the last of `members` to call it for this counter, which starts at 0:
// everything the others wrote before is there for load_fresh. Blocks never wait for each other.
DPAD_DEVICE bool last_of_group(unsigned* counter, unsigned members) {
  DPAD_SHARED unsigned ticket;
  fence();
  block_sync();  // the whole block has written
  if (thread_index() == 0) ticket = take_ticket(counter);
  block_sync();
  fence();
  return ticket + 1 == members;
}

}  // namespace dpad::cuda
