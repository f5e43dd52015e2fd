// Weighted sums of the experts' rows, back in the rows' order. A work item is one row.
#pragma once

#include "core/error.h"
#include "params.h"

namespace dpad::cpu {

// Fills p.place; an error where p.order is no permutation.
Error combine_places(const CombineParams& p);
int64_t combine_grain(const CombineParams& p);    // rows worth a thread
int64_t combine_scratch(const CombineParams& p);  // bytes
void combine(const CombineParams& p, int64_t begin, int64_t end, void* scratch);

}  // namespace dpad::cpu
