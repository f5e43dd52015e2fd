// Token and scores of every logit row.
#pragma once

#include <cuda_runtime_api.h>

#include "params.h"

namespace dpad::cuda {

// Bytes of `scratch`, which needs no initial value; 0 where none is wanted.
int64_t confidence_scratch(const ConfidenceParams& p);
cudaError_t launch_confidence(const ConfidenceParams& p, void* scratch, cudaStream_t stream);

}  // namespace dpad::cuda
