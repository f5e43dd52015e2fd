// The sparse gather: tokens of a pass's rows from the canvas, by position.
#pragma once

#include "params.h"

namespace dpad::cpu {

void suffix_gather(const SuffixGatherParams& p);

}  // namespace dpad::cpu
