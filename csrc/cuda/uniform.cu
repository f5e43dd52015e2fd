#include "cuda/uniform.h"

#include "cuda/launch.cuh"
#include "cuda/uniform.cuh"

namespace dpad::cuda {

cudaError_t launch_uniform(const UniformParams& p, cudaStream_t stream) {
  if (p.rows <= 0) return cudaSuccess;
  const unsigned blocks = blocks_for(p.rows, kThreads, 1 << 20);
  return launch_kernel(uniform_kernel, blocks, kThreads, 0, stream, p);
}

}  // namespace dpad::cuda
