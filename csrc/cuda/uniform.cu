#include "cuda/uniform.h"

#include "cuda/launch.cuh"
#include "cuda/uniform.cuh"

namespace dpad::cuda {

cudaError_t launch_uniform(const UniformParams& p, cudaStream_t stream) {
  if (p.rows <= 0) return cudaSuccess;
  uniform_kernel<<<blocks_for(p.rows, kThreads, 1 << 20), kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace dpad::cuda
