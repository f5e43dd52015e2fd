// Attention of flat query rows over cached keys.
#pragma once

#include <cuda_runtime_api.h>

#include "params.h"

namespace dpad::cuda {

// Bytes of `scratch` on the current device, which needs no initial value; 0 where none is wanted.
int64_t block_attention_scratch(const BlockAttentionParams& p);
cudaError_t launch_block_attention(const BlockAttentionParams& p, void* scratch,
                                   cudaStream_t stream);

}  // namespace dpad::cuda
