#include "cuda/rope_kv_write.h"

#include "cuda/launch.cuh"
#include "cuda/rope_kv_write.cuh"

namespace dpad::cuda {
namespace {

template <class T, int N>
cudaError_t launch(const RopeKvWriteParams& p, cudaStream_t stream) {
  const RopePieces pieces(p, N);
  const int64_t rows = std::max(p.q_rows, p.rows), all = pieces.q + pieces.k + pieces.v;
  if (rows > kMostBlocks || all > 65535) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(all));
  return launch_kernel(rope_kv_write_kernel<T, N>, grid, kThreads, 0, stream, p);
}

}  // namespace

cudaError_t launch_rope_kv_write(const RopeKvWriteParams& p, cudaStream_t stream) {
  if (p.q_rows + p.rows <= 0 || p.head_dim <= 0) return cudaSuccess;
  return with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return rope_kv_write_wide<T>(p) ? launch<T, kWide<T>>(p, stream) : launch<T, 1>(p, stream);
  });
}

}  // namespace dpad::cuda
