// Transfer schedules: how many positions each of `steps` steps of a block commits.
#pragma once

#include <cstdint>

namespace dpad {

// Steps of one schedule: more would fill the memory.
inline constexpr int64_t kMaxSteps = int64_t{1} << 24;

// Linear schedule of LLaDA (arXiv 2502.09992, generate.py): floor(masks / steps) in each step, one
// more in the first masks mod steps.
constexpr int64_t transfer_quota(int64_t masks, int64_t steps, int64_t step) {
  return masks / steps + (step < masks % steps ? 1 : 0);
}

}  // namespace dpad
