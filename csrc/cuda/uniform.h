// Uniform draws, one per logit row: the order of random remasking.
#pragma once

#include <cuda_runtime_api.h>

#include "params.h"

namespace dpad::cuda {

cudaError_t launch_uniform(const UniformParams& p, cudaStream_t stream);

}  // namespace dpad::cuda
