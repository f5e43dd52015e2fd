#include "cuda/suffix_gather.h"

#include "cuda/launch.cuh"
#include "cuda/suffix_gather.cuh"

namespace dpad::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) suffix_gather_kernel(const SuffixGatherParams p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; row < p.rows; row += step) {
    p.out[row] = suffix_gather_row(p, row);
  }
}

}  // namespace

cudaError_t launch_suffix_gather(const SuffixGatherParams& p, cudaStream_t stream) {
  if (p.rows <= 0) return cudaSuccess;
  suffix_gather_kernel<<<blocks_for(p.rows, kThreads, 1 << 20), kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace dpad::cuda
