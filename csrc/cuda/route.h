// Experts and weights of each row, and the pairs sorted by expert.
#pragma once

#include <cuda_runtime_api.h>

#include "params.h"

namespace dpad::cuda {

// Bytes of `scratch`, which needs no initial value.
int64_t route_scratch(const RouteParams& p);
cudaError_t launch_route(const RouteParams& p, void* scratch, cudaStream_t stream);

}  // namespace dpad::cuda
