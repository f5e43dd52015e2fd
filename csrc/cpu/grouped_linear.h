// x weight^T with a weight for each group of rows. A work item is kLinearUnit rows of one weight.
#pragma once

#include "params.h"

namespace dpad::cpu {

int64_t grouped_linear_tasks(const GroupedLinearParams& p);
int64_t grouped_linear_grain(const GroupedLinearParams& p);    // items worth a thread
int64_t grouped_linear_scratch(const GroupedLinearParams& p);  // bytes
void grouped_linear(const GroupedLinearParams& p, int64_t begin, int64_t end, void* scratch);

}  // namespace dpad::cpu
