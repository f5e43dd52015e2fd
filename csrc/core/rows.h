// Index maths of flat rows that are grouped by sequence.
#pragma once

#include <cstdint>

#include "core/philox.h"

namespace dpad {

// The sequence b whose rows [offsets[b], offsets[b + 1]) hold `row`, or -1. Reads stay within
// offsets[0..batch] whatever the values are.
DPAD_HOST_DEVICE inline int64_t sequence_of(const int64_t* offsets, int64_t batch, int64_t row) {
  int64_t low = 0, high = batch;  // the last b with offsets[b] <= row lies in [low, high)
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (offsets[middle] <= row) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return batch > 0 && offsets[low] <= row && row < offsets[low + 1] ? low : -1;
}

DPAD_HOST_DEVICE inline bool inside(int64_t value, int64_t size) {
  return value >= 0 && value < size;
}

// True when the slots [start, start + count) lie among the `slots` of the arena.
DPAD_HOST_DEVICE inline bool within_arena(int64_t start, int64_t count, int64_t slots) {
  return inside(start, slots + 1) && inside(count, slots - start + 1);
}

}  // namespace dpad
