// The sparse gather: tokens of a pass's rows from the canvas, by position.
#pragma once

#include <cuda_runtime_api.h>

#include "params.h"

namespace dpad::cuda {

cudaError_t launch_suffix_gather(const SuffixGatherParams& p, cudaStream_t stream);

}  // namespace dpad::cuda
