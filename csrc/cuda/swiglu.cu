#include "cuda/swiglu.h"

#include "cuda/launch.cuh"
#include "cuda/swiglu.cuh"

namespace dpad::cuda {
namespace {

template <class T, int N>
cudaError_t launch(const SwigluParams& p, cudaStream_t stream) {
  const dim3 grid(blocks_for(p.width, kThreads * N, 1 << 16), blocks_for(p.rows, 1, 65535));
  return launch_kernel(swiglu_kernel<T, N>, grid, kThreads, 0, stream, p);
}

}  // namespace

cudaError_t launch_swiglu(const SwigluParams& p, cudaStream_t stream) {
  if (p.rows <= 0 || p.width <= 0) return cudaSuccess;
  return with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return swiglu_wide<T>(p) ? launch<T, kWide<T>>(p, stream) : launch<T, 1>(p, stream);
  });
}

}  // namespace dpad::cuda
