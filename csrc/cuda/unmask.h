// Commits tokens to the canvas by rule, tests for end-of-text, fills the tail.
#pragma once

#include <cuda_runtime_api.h>

#include "params.h"

namespace dpad::cuda {

// Bytes of `scratch`, which needs no initial value; 0 where none is wanted.
int64_t unmask_scratch(const UnmaskParams& p);
cudaError_t launch_unmask(const UnmaskParams& p, void* scratch, cudaStream_t stream);

}  // namespace dpad::cuda
