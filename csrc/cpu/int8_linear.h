// x weight^T + bias with 8-bit weights, in two stages: the rows of x become 8-bit, then a work item
// is kInt8LinearUnit rows of the weight.
#pragma once

#include "params.h"

namespace dpad::cpu {

constexpr int64_t kInt8LinearUnit = 48;

// 32-bit words of `p.packed`, which the first stage fills and the second reads.
int64_t int8_linear_words(const Int8LinearParams& p);

int64_t int8_rows_tasks(const Int8LinearParams& p);
int64_t int8_rows_grain(const Int8LinearParams& p);
int64_t int8_rows_scratch(const Int8LinearParams& p);  // bytes
void int8_rows(const Int8LinearParams& p, int64_t begin, int64_t end, void* scratch);

int64_t int8_linear_tasks(const Int8LinearParams& p);
int64_t int8_linear_grain(const Int8LinearParams& p);
int64_t int8_linear_scratch(const Int8LinearParams& p);  // bytes
void int8_linear(const Int8LinearParams& p, int64_t begin, int64_t end, void* scratch);

}  // namespace dpad::cpu
