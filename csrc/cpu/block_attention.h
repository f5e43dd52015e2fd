// Attention of flat query rows over cached keys. A work item is one tile of rows (query x head of
// the group) of one key/value head of one sequence.
#pragma once

#include "params.h"

namespace dpad::cpu {

int64_t block_attention_tasks(const BlockAttentionParams& p);
int64_t block_attention_grain(const BlockAttentionParams& p);    // items worth a thread
int64_t block_attention_scratch(const BlockAttentionParams& p);  // bytes
void block_attention(const BlockAttentionParams& p, int64_t begin, int64_t end, void* scratch);

}  // namespace dpad::cpu
