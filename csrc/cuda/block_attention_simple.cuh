// Attention for float32, other head sizes and unaligned rows: one block per row and head, its warps
// take the keys in turns with the lanes along the head. The bits of a row depend on nothing else.
#pragma once

#include "cuda/block.cuh"
#include "cuda/block_attention_plan.h"

namespace dpad::cuda {

inline constexpr int kSimpleWarps = 4, kSimpleThreads = 32 * kSimpleWarps;

// Shared memory: the query, then of every warp its out, all float32.
inline int64_t simple_shared_bytes(const BlockAttentionParams& p) {
  return (1 + kSimpleWarps) * p.head_dim * static_cast<int64_t>(sizeof(float));
}

// Online soft-max of one warp over the keys warp, warp + kSimpleWarps, ...; the same in every lane.
struct SimpleState {
  float peak = -INFINITY, sum = 0;
};

template <class T>
DPAD_DEVICE SimpleState attend_in_turns(const BlockAttentionParams& p, int64_t sequence,
                                        int64_t kv_head, int64_t keys, const float* q, float* out) {
  const int lane = thread_index() % 32, warp = thread_index() / 32;
  const int dim = static_cast<int>(p.head_dim);
  const int64_t start = p.kv_start[sequence];
  const bool* mask = p.key_mask != nullptr ? p.key_mask + start : nullptr;
  const T* k =
      static_cast<const T*>(p.k_cache) + start * p.k_slot_stride + kv_head * p.k_head_stride;
  const T* v =
      static_cast<const T*>(p.v_cache) + start * p.v_slot_stride + kv_head * p.v_head_stride;
  SimpleState state;
  for (int d = lane; d < dim; d += 32) out[d] = 0;
  for (int64_t slot = warp; slot < keys; slot += kSimpleWarps) {
    if (mask != nullptr && !mask[slot]) continue;
    float score = 0;
    for (int d = lane; d < dim; d += 32) score += q[d] * to_float(k[slot * p.k_slot_stride + d]);
    score = warp_reduce(score, Sum()) * p.scale;
    const float peak = Largest()(score, state.peak), base = softmax_base(peak);
    const float shift = expf(state.peak - base), weight = expf(score - base);
    state = {peak, state.sum * shift + weight};
    for (int d = lane; d < dim; d += 32) {
      out[d] = out[d] * shift + weight * to_float(v[slot * p.v_slot_stride + d]);
    }
  }
  return state;
}

// Blocks [query rows x heads]. A row of no sequence, or of one whose slots lie outside the arena,
// becomes NaN.
template <class T>
DPAD_KERNEL(kSimpleThreads, 2)
block_attention_simple_kernel(const BlockAttentionParams p) {
  DPAD_SHARED float peaks[kSimpleWarps], sums[kSimpleWarps];
  const int dim = static_cast<int>(p.head_dim), warp = thread_index() / 32;
  const int64_t query = block_x() / p.num_heads, head = block_x() % p.num_heads;
  const int64_t sequence = sequence_of(p.q_offsets, p.batch, query);
  T* to = static_cast<T*>(p.out) + block_x() * p.head_dim;
  if (sequence < 0 || !has_keys(p, sequence)) {
    for (int d = thread_index(); d < dim; d += kSimpleThreads) to[d] = from_float<T>(NAN);
    return;
  }
  auto* q = static_cast<float*>(dynamic_shared());
  float* outs = q + dim;
  const T* from = static_cast<const T*>(p.q) + query * p.q_row_stride + head * p.q_head_stride;
  for (int d = thread_index(); d < dim; d += kSimpleThreads) q[d] = to_float(from[d]);
  block_sync();
  const int64_t kv_head = head / group_of(p);
  const int64_t keys = limit_of(p, query, p.n_keys[sequence]);
  const SimpleState mine = attend_in_turns<T>(p, sequence, kv_head, keys, q, outs + warp * dim);
  if (thread_index() % 32 == 0) peaks[warp] = mine.peak, sums[warp] = mine.sum;
  block_sync();
  float peak = -INFINITY, sum = 0, weight[kSimpleWarps];
  for (int w = 0; w < kSimpleWarps; ++w) peak = Largest()(peaks[w], peak);
  for (int w = 0; w < kSimpleWarps; ++w) {
    weight[w] = expf(peaks[w] - softmax_base(peak));
    sum += sums[w] * weight[w];
  }
  const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
  for (int d = thread_index(); d < dim; d += kSimpleThreads) {
    float x = 0;
    for (int w = 0; w < kSimpleWarps; ++w) x += outs[w * dim + d] * weight[w];
    to[d] = from_float<T>(x * inverse);
  }
}

}  // namespace dpad::cuda
