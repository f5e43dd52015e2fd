#include "cuda/unmask.h"

#include "cuda/launch.cuh"
#include "cuda/unmask.cuh"

namespace dpad::cuda {

int64_t unmask_scratch(const UnmaskParams& p) {
  return p.rows > kRanked ? p.rows * static_cast<int64_t>(sizeof(int32_t)) : 0;
}

cudaError_t launch_unmask(const UnmaskParams& p, void* scratch, cudaStream_t stream) {
  if (p.batch <= 0) return cudaSuccess;
  if (p.batch > kMostBlocks) return cudaErrorInvalidValue;
  return launch_kernel(unmask_kernel, static_cast<unsigned>(p.batch), kThreads, 0, stream, p,
                       static_cast<int32_t*>(scratch));
}

}  // namespace dpad::cuda
