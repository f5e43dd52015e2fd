// Token and confidence of logit rows. A work item is one row.
#pragma once

#include "params.h"

namespace dpad::cpu {

int64_t confidence_tasks(const ConfidenceParams& p);
int64_t confidence_grain(const ConfidenceParams& p);    // rows worth a thread
int64_t confidence_scratch(const ConfidenceParams& p);  // bytes
void confidence(const ConfidenceParams& p, int64_t begin, int64_t end, void* scratch);

}  // namespace dpad::cpu
