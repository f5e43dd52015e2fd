#include "cuda/add_rms_norm.h"

#include "cuda/add_rms_norm.cuh"
#include "cuda/launch.cuh"

namespace dpad::cuda {
namespace {

template <class T, int N>
cudaError_t launch(const AddRmsNormParams& p, cudaStream_t stream) {
  const unsigned blocks = blocks_for(p.rows, 1, 1 << 30);
  return launch_kernel(add_rms_norm_kernel<T, N>, blocks, kThreads, 0, stream, p);
}

}  // namespace

cudaError_t launch_add_rms_norm(const AddRmsNormParams& p, cudaStream_t stream) {
  if (p.rows <= 0 || p.width <= 0) return cudaSuccess;
  return with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return add_rms_norm_wide<T>(p) ? launch<T, kWide<T>>(p, stream) : launch<T, 1>(p, stream);
  });
}

}  // namespace dpad::cuda
