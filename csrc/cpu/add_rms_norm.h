// residual += delta, then RMSNorm of the residual. A work item is one row.
#pragma once

#include "params.h"

namespace dpad::cpu {

int64_t add_rms_norm_tasks(const AddRmsNormParams& p);
int64_t add_rms_norm_grain(const AddRmsNormParams& p);  // rows worth a thread
void add_rms_norm(const AddRmsNormParams& p, int64_t begin, int64_t end);

}  // namespace dpad::cpu
