// Rotates q and k at their positions and writes k and v into their cache slots. A work item is one
// row of q, then one row of k and v.
#pragma once

#include "params.h"

namespace dpad::cpu {

int64_t rope_kv_write_tasks(const RopeKvWriteParams& p);
int64_t rope_kv_write_grain(const RopeKvWriteParams& p);  // items worth a thread
void rope_kv_write(const RopeKvWriteParams& p, int64_t begin, int64_t end);

}  // namespace dpad::cpu
