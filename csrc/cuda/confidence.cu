#include "cuda/confidence.h"

#include "cuda/confidence.cuh"
#include "cuda/launch.cuh"

namespace dpad::cuda {
namespace {

int64_t part_words(const ConfidenceParams& p) {
  return p.rows * confidence_chunks(p) * kFoundWords;
}

template <class T, int N>
cudaError_t launch(const ConfidenceParams& p, void* scratch, cudaStream_t stream) {
  const int chunks = confidence_chunks(p);
  auto* parts = static_cast<unsigned long long*>(scratch);
  auto* tickets = reinterpret_cast<unsigned*>(parts + part_words(p));
  if (chunks > 1) {
    const cudaError_t code = cudaMemsetAsync(tickets, 0, p.rows * sizeof(unsigned), stream);
    if (code != cudaSuccess) return code;
  }
  const auto blocks = static_cast<unsigned>(p.rows * chunks);
  confidence_kernel<T, N><<<blocks, kThreads, 0, stream>>>(p, chunks, parts, tickets);
  return cudaGetLastError();
}

}  // namespace

int64_t confidence_scratch(const ConfidenceParams& p) {
  if (confidence_chunks(p) == 1) return 0;
  return part_words(p) * static_cast<int64_t>(sizeof(unsigned long long)) +
         p.rows * static_cast<int64_t>(sizeof(unsigned));
}

cudaError_t launch_confidence(const ConfidenceParams& p, void* scratch, cudaStream_t stream) {
  if (p.rows <= 0) return cudaSuccess;
  if (p.rows * confidence_chunks(p) > 0x7FFFFFFF) return cudaErrorInvalidValue;
  return with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return confidence_wide<T>(p) ? launch<T, kWide<T>>(p, scratch, stream)
                                 : launch<T, 1>(p, scratch, stream);
  });
}

}  // namespace dpad::cuda
