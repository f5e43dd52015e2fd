#include "cuda/block_attention.h"

#include "cuda/block_attention.cuh"
#include "cuda/block_attention_simple.cuh"
#include "cuda/launch.cuh"

namespace dpad::cuda {
namespace {

int device_attribute(cudaDeviceAttr name) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  return cudaDeviceGetAttribute(&value, name, device) == cudaSuccess ? value : 0;
}

// How a call is cut up; splits 0: by the simple kernel.
struct Cut {
  int64_t tile_rows, tiles;
  int splits;
};

Cut cut_of(const BlockAttentionParams& p) {
  const int64_t group = p.num_heads / p.num_kv_heads;
  const bool few = ceil_div(p.q_rows, p.batch) * group <= 32;
  const int64_t tile_rows = few ? 32 : 96;
  const int64_t tiles = most_tiles(p.q_rows, p.batch, group, tile_rows);
  const bool fits = block_attention_fits(p) && tiles <= 65535 && p.num_kv_heads <= 65535 &&
                    device_attribute(cudaDevAttrComputeCapabilityMajor) >= 8;
  if (!fits) return {tile_rows, tiles, 0};
  const int processors = device_attribute(cudaDevAttrMultiProcessorCount);
  return {tile_rows, tiles, attention_splits(p, tile_rows, processors)};
}

int64_t part_floats(const BlockAttentionParams& p, const Cut& cut) {
  return cut.tiles * p.num_kv_heads * cut.splits * cut.tile_rows * (p.head_dim + 2);
}

template <class S>
cudaError_t launch(const BlockAttentionParams& p, const Cut& cut, void* scratch,
                   cudaStream_t stream) {
  auto* parts = static_cast<float*>(scratch);
  unsigned* tickets = nullptr;
  if (cut.splits > 1) {
    tickets = reinterpret_cast<unsigned*>(parts + part_floats(p, cut));
    const size_t bytes = cut.tiles * p.num_kv_heads * sizeof(unsigned);
    const cudaError_t code = cudaMemsetAsync(tickets, 0, bytes, stream);
    if (code != cudaSuccess) return code;
  }
  const cudaError_t code = cudaFuncSetAttribute(
      block_attention_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (code != cudaSuccess) return code;
  const dim3 grid(cut.splits, static_cast<unsigned>(p.num_kv_heads),
                  static_cast<unsigned>(cut.tiles));
  block_attention_kernel<S>
      <<<grid, S::kBlock, S::kSharedBytes, stream>>>(p, cut.splits, parts, tickets);
  return cudaGetLastError();
}

template <class T, int kDim>
cudaError_t launch_rows(const BlockAttentionParams& p, const Cut& cut, void* scratch,
                        cudaStream_t stream) {
  return cut.tile_rows == 32 ? launch<AttentionShape<T, kDim, 2, 2>>(p, cut, scratch, stream)
                             : launch<AttentionShape<T, kDim, 6, 1>>(p, cut, scratch, stream);
}

template <class T>
cudaError_t launch_simple(const BlockAttentionParams& p, cudaStream_t stream) {
  const int64_t bytes = simple_shared_bytes(p), blocks = p.q_rows * p.num_heads;
  if (bytes > 48 << 10 || blocks > 0x7FFFFFFF) return cudaErrorInvalidValue;
  block_attention_simple_kernel<T>
      <<<static_cast<unsigned>(blocks), kSimpleThreads, bytes, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

int64_t block_attention_scratch(const BlockAttentionParams& p) {
  if (p.q_rows <= 0 || p.batch <= 0 || p.head_dim <= 0) return 0;
  const Cut cut = cut_of(p);
  if (cut.splits <= 1) return 0;
  return part_floats(p, cut) * static_cast<int64_t>(sizeof(float)) +
         cut.tiles * p.num_kv_heads * static_cast<int64_t>(sizeof(unsigned));
}

cudaError_t launch_block_attention(const BlockAttentionParams& p, void* scratch,
                                   cudaStream_t stream) {
  if (p.q_rows <= 0 || p.num_heads <= 0 || p.head_dim <= 0) return cudaSuccess;
  const Cut cut = p.batch > 0 ? cut_of(p) : Cut{32, 0, 0};
  return with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 2) {
      if (cut.splits > 0) {
        return p.head_dim == 64 ? launch_rows<T, 64>(p, cut, scratch, stream)
                                : launch_rows<T, 128>(p, cut, scratch, stream);
      }
    }
    return launch_simple<T>(p, stream);
  });
}

}  // namespace dpad::cuda
