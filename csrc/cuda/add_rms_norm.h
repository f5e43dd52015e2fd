// Adds into the residual and norms the rows.
#pragma once

#include <cuda_runtime_api.h>

#include "params.h"

namespace dpad::cuda {

cudaError_t launch_add_rms_norm(const AddRmsNormParams& p, cudaStream_t stream);

}  // namespace dpad::cuda
