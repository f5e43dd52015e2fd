// Weighted sums of the experts' rows, back in the rows' order.
#pragma once

#include <cuda_runtime_api.h>

#include "params.h"

namespace dpad::cuda {

// Bytes of `scratch`, which needs no initial value.
int64_t combine_scratch(const CombineParams& p);
cudaError_t launch_combine(const CombineParams& p, void* scratch, cudaStream_t stream);

}  // namespace dpad::cuda
