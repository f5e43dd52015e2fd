#include "cuda/rope_kv_write.h"

#include "cuda/launch.cuh"
#include "cuda/rope_kv_write.cuh"

namespace dpad::cuda {
namespace {

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
