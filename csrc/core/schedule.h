// Transfer schedules: how many positions each of `steps` steps of a block commits.
#pragma once

#include <cstdint>

namespace dpad {

// Linear schedule of LLaDA (arXiv 2502.09992, generate.py): floor(masks / steps) in each step, one
// more in the first masks mod steps.
constexpr int64_t transfer_quota(int64_t masks, int64_t steps, int64_t step) {
  return masks / steps + (step < masks % steps ? 1 : 0);
}

}  // namespace dpad
