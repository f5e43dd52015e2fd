#include "cuda/rope_kv_write.h"

#include "cuda/launch.cuh"
#include "cuda/rope_kv_write.cuh"

namespace dpad::cuda {
namespace {

// One block takes a row of q or a row of k and v at a time.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) rope_kv_write_kernel(const RopeKvWriteParams p) {
  for (int64_t i = blockIdx.x; i < p.q_rows + p.rows; i += gridDim.x) {
    if (i < p.q_rows) {
      rope_q_row<T, N>(p, i, threadIdx.x, kThreads);
    } else {
      rope_kv_row<T, N>(p, i - p.q_rows, threadIdx.x, kThreads);
    }
  }
}

template <class T, int N>
cudaError_t launch(const RopeKvWriteParams& p, cudaStream_t stream) {
  const unsigned blocks = blocks_for(p.q_rows + p.rows, 1, 1 << 30);
  rope_kv_write_kernel<T, N><<<blocks, kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_rope_kv_write(const RopeKvWriteParams& p, cudaStream_t stream) {
  if (p.q_rows + p.rows <= 0) return cudaSuccess;
  return with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return rope_kv_write_wide<T>(p) ? launch<T, kWide<T>>(p, stream) : launch<T, 1>(p, stream);
  });
}

}  // namespace dpad::cuda
