// Rotates q and k at their positions, writes k and v into their slots.
#pragma once

#include <cuda_runtime_api.h>

#include "params.h"

namespace dpad::cuda {

cudaError_t launch_rope_kv_write(const RopeKvWriteParams& p, cudaStream_t stream);

}  // namespace dpad::cuda
