// Uniform draws, one per logit row: the order of random remasking.
#pragma once

#include "params.h"

namespace dpad::cpu {

void uniform(const UniformParams& p);

}  // namespace dpad::cpu
