// x weight^T + bias for few rows of x. A work item is kLinearUnit rows of the weight.
#pragma once

#include "params.h"

namespace dpad::cpu {

// Whole blocks and whole vectors of every instruction set.
constexpr int64_t kLinearUnit = 48;

int64_t linear_tasks(const LinearParams& p);
int64_t linear_grain(const LinearParams& p);    // items worth a thread
int64_t linear_scratch(const LinearParams& p);  // bytes
void linear(const LinearParams& p, int64_t begin, int64_t end, void* scratch);

}  // namespace dpad::cpu
