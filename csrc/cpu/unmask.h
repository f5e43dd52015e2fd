// Commits tokens to the canvas by rule, tests for end-of-text, fills the tail.
#pragma once

#include "params.h"

namespace dpad::cpu {

void unmask(const UnmaskParams& p);

}  // namespace dpad::cpu
