#include "cuda/confidence.h"

#include "cuda/confidence.cuh"
#include "cuda/launch.cuh"

namespace dpad::cuda {
namespace {

template <class T, int N>
cudaError_t launch(const ConfidenceParams& p, void* scratch, cudaStream_t stream) {
  const int chunks = confidence_chunks(p);
  auto* parts = static_cast<unsigned long long*>(scratch);
  const auto blocks = static_cast<unsigned>(p.rows * chunks);
  const cudaError_t code =
      launch_kernel(confidence_kernel<T, N>, blocks, kThreads, 0, stream, p, chunks, parts);
  if (code != cudaSuccess || chunks == 1) return code;
  const unsigned merging = blocks_for(p.rows, kThreads / 32, kMostBlocks);
  return launch_kernel(confidence_merge_kernel<T>, merging, kThreads, 0, stream, p, chunks, parts);
}

}  // namespace

int64_t confidence_scratch(const ConfidenceParams& p) {
  const int64_t chunks = confidence_chunks(p);
  return chunks == 1 ? 0 : p.rows * chunks * static_cast<int64_t>(sizeof(Found));
}

cudaError_t launch_confidence(const ConfidenceParams& p, void* scratch, cudaStream_t stream) {
  if (p.rows <= 0) return cudaSuccess;
  if (p.rows * confidence_chunks(p) > kMostBlocks) return cudaErrorInvalidValue;
  return with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return confidence_wide<T>(p) ? launch<T, kWide<T>>(p, scratch, stream)
                                 : launch<T, 1>(p, scratch, stream);
  });
}

}  // namespace dpad::cuda
