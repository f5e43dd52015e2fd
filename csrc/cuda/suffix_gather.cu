#include "cuda/suffix_gather.h"

#include "cuda/launch.cuh"
#include "cuda/suffix_gather.cuh"

namespace dpad::cuda {

cudaError_t launch_suffix_gather(const SuffixGatherParams& p, cudaStream_t stream) {
  if (p.rows <= 0) return cudaSuccess;
  const unsigned blocks = blocks_for(p.rows, kThreads, 1 << 20);
  return launch_kernel(suffix_gather_kernel, blocks, kThreads, 0, stream, p);
}

}  // namespace dpad::cuda
