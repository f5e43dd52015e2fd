// silu(gate) * up.
#pragma once

#include <cuda_runtime_api.h>

#include "params.h"

namespace dpad::cuda {

cudaError_t launch_swiglu(const SwigluParams& p, cudaStream_t stream);

}  // namespace dpad::cuda
