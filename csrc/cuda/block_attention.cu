#include "cuda/block_attention.h"

#include <limits>

#include "cuda/block_attention.cuh"
#include "cuda/block_attention_simple.cuh"
#include "cuda/launch.cuh"

namespace dpad::cuda {
namespace {

int device_attribute(cudaDeviceAttr name) {
  int device = 0, value = 0;
  if (reported(cudaGetDevice(&device)) != cudaSuccess) return 0;
  return reported(cudaDeviceGetAttribute(&value, name, device)) == cudaSuccess ? value : 0;
}

// How a call is cut up; parts 0: by the simple kernel.
struct Cut {
  int64_t blocks = 0;  // of a key/value head
  int parts = 0;
};

// Keys are split where there is scratch memory for the parts. The bytes are asked for before the
// launch, and a device that did not answer then may answer now.
Cut cut_of(const BlockAttentionParams& p, bool has_scratch) {
  if (p.batch <= 0 || !block_attention_fits(p) || p.q_rows * p.num_heads > kMostBlocks) return {};
  if (p.slots > std::numeric_limits<int32_t>::max()) return {};  // counted in 32 bits there
  if (device_attribute(cudaDevAttrComputeCapabilityMajor) < 8) return {};
  const int parts =
      has_scratch ? attention_parts(p, device_attribute(cudaDevAttrMultiProcessorCount)) : 1;
  const int64_t tiles = most_tiles(p.q_rows, p.batch, group_of(p));
  const Cut cut{attention_blocks(tiles, parts), parts};
  return cut.blocks * p.num_kv_heads <= kMostBlocks ? cut : Cut{};
}

template <class S>
cudaError_t launch(const BlockAttentionParams& p, const Cut& cut, float* scratch,
                   cudaStream_t stream) {
  const auto kernel = block_attention_kernel<S>;
  cudaError_t code = allow_shared_memory(kernel, S::kSharedBytes);
  if (code != cudaSuccess) return code;
  const auto blocks = static_cast<unsigned>(cut.blocks * p.num_kv_heads);
  code = launch_kernel(kernel, blocks, S::kBlock, S::kSharedBytes, stream, p, cut.parts, scratch);
  if (code != cudaSuccess || cut.parts == 1) return code;
  const unsigned merging = blocks_for(p.q_rows * p.num_heads, kThreads / 32, kMostBlocks);
  return launch_kernel(block_attention_merge_kernel<S>, merging, kThreads, 0, stream, p, cut.parts,
                       scratch);
}

template <class T>
cudaError_t launch_simple(const BlockAttentionParams& p, cudaStream_t stream) {
  const int64_t bytes = simple_shared_bytes(p), blocks = p.q_rows * p.num_heads;
  if (bytes > 48 << 10 || blocks > kMostBlocks) return cudaErrorInvalidValue;
  return launch_kernel(block_attention_simple_kernel<T>, static_cast<unsigned>(blocks),
                       kSimpleThreads, bytes, stream, p);
}

}  // namespace

int64_t block_attention_scratch(const BlockAttentionParams& p) {
  if (p.q_rows <= 0 || p.num_heads <= 0) return 0;
  const Cut cut = cut_of(p, true);
  if (cut.parts <= 1) return 0;
  const int64_t floats =
      p.head_dim == 64 ? AttentionShape<BFloat16, 64>::kPart : AttentionShape<BFloat16, 128>::kPart;
  return cut.parts * p.num_kv_heads * floats * static_cast<int64_t>(sizeof(float));
}

cudaError_t launch_block_attention(const BlockAttentionParams& p, void* scratch,
                                   cudaStream_t stream) {
  if (p.q_rows <= 0 || p.num_heads <= 0 || p.head_dim <= 0) return cudaSuccess;
  const Cut cut = cut_of(p, scratch != nullptr);
  auto* parts = static_cast<float*>(scratch);
  return with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 2) {
      if (cut.parts > 0) {
        return p.head_dim == 64 ? launch<AttentionShape<T, 64>>(p, cut, parts, stream)
                                : launch<AttentionShape<T, 128>>(p, cut, parts, stream);
      }
    }
    return launch_simple<T>(p, stream);
  });
}

}  // namespace dpad::cuda
