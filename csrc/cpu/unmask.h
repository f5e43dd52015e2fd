// Commits tokens to the canvas by rule, tests for end-of-text, fills the tail.
#pragma once

#include "params.h"

namespace dpad::cpu {

int64_t unmask_scratch(const UnmaskParams& p);  // bytes
void unmask(const UnmaskParams& p, void* scratch);

}  // namespace dpad::cpu
