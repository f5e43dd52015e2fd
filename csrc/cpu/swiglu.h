// silu(gate) * up. A work item is a piece of one row.
#pragma once

#include "params.h"

namespace dpad::cpu {

constexpr int64_t kSwigluPiece = 2048;  // elements of one work item

int64_t swiglu_tasks(const SwigluParams& p);
int64_t swiglu_grain(const SwigluParams& p);  // items worth a thread
void swiglu(const SwigluParams& p, int64_t begin, int64_t end);

}  // namespace dpad::cpu
