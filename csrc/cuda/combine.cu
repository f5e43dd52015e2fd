#include "cuda/combine.h"

#include "cuda/combine.cuh"
#include "cuda/launch.cuh"

namespace dpad::cuda {
namespace {

constexpr int64_t kMostShared = 48 << 10;  // bytes that a block has without asking

template <class T, int N>
cudaError_t launch(const CombineParams& p, cudaStream_t stream) {
  const unsigned blocks = blocks_for(p.rows, 1, 1 << 30);
  const int64_t shared = CombineTerms::bytes(p.top_k);
  return launch_kernel(combine_kernel<T, N>, blocks, kThreads, shared, stream, p);
}

}  // namespace

int64_t combine_scratch(const CombineParams& p) {
  return p.rows * p.top_k * static_cast<int64_t>(sizeof(int64_t));
}

cudaError_t launch_combine(const CombineParams& p, void* scratch, cudaStream_t stream) {
  if (p.rows <= 0 || p.width <= 0) return cudaSuccess;
  if (CombineTerms::bytes(p.top_k) > kMostShared) return cudaErrorInvalidValue;
  CombineParams placed = p;
  placed.place = static_cast<int64_t*>(scratch);
  if (p.top_k > 0) {
    const unsigned blocks = blocks_for(p.rows * p.top_k, kThreads, 1 << 20);
    const cudaError_t code =
        launch_kernel(combine_places_kernel, blocks, kThreads, 0, stream, placed);
    if (code != cudaSuccess) return code;
  }
  return with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return combine_wide<T>(p) ? launch<T, kWide<T>>(placed, stream) : launch<T, 1>(placed, stream);
  });
}

}  // namespace dpad::cuda
