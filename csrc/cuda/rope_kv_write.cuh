// Half-split RoPE with separately rounded products, and the write into the K/V cache.
#pragma once

#include "cuda/block.cuh"
#include "cuda/rows.cuh"
#include "cuda/scalar.cuh"
#include "params.h"

namespace dpad::cuda {

// a c + b s: in float32 and rounded once, or every operand and product rounded to T.
template <class T>
DPAD_HOST_DEVICE inline T turn(float a, float b, float c, float s, bool full_precision) {
  if (full_precision) return from_float<T>(add_rn(mul_rn(a, c), mul_rn(b, s)));
  const float first = rounded<T>(mul_rn(a, rounded<T>(c)));
  return from_float<T>(add_rn(first, rounded<T>(mul_rn(b, rounded<T>(s)))));
}

// Rotates one head vector; `item` counts packs of N pairs, then packs of N unrotated elements.
template <class T, int N>
DPAD_HOST_DEVICE inline void rotate_item(const RopeKvWriteParams& p, const T* in, T* out,
                                         int64_t position, int item) {
  using P = Pack<T, N>;
  const int half = static_cast<int>(p.rotary_dim / 2), first = item * N;
  if (first >= half) {
    *reinterpret_cast<P*>(out + half + first) = *reinterpret_cast<const P*>(in + half + first);
    return;
  }
  const P low = *reinterpret_cast<const P*>(in + first);
  const P high = *reinterpret_cast<const P*>(in + half + first);
  const float* cos = p.cos + position * half + first;
  const float* sin = p.sin + position * half + first;
  P new_low, new_high;
  for (int j = 0; j < N; ++j) {
    const float a = to_float(low.at[j]), b = to_float(high.at[j]);
    new_low.at[j] = turn<T>(a, -b, cos[j], sin[j], p.full_precision);
    new_high.at[j] = turn<T>(b, a, cos[j], sin[j], p.full_precision);
  }
  *reinterpret_cast<P*>(out + first) = new_low;
  *reinterpret_cast<P*>(out + half + first) = new_high;
}

// One row of q. A position out of range gives zeros.
template <class T, int N>
DPAD_HOST_DEVICE inline void rope_q_row(const RopeKvWriteParams& p, int64_t row, int thread,
                                        int threads) {
  const T* in = static_cast<const T*>(p.q) + row * p.q_row_stride;
  T* out = static_cast<T*>(p.q_out) + row * p.num_heads * p.head_dim;
  const int64_t position = p.q_position[row];
  const bool valid = inside(position, p.positions);
  const int per_head = static_cast<int>((p.head_dim - p.rotary_dim / 2) / N);
  for (int i = thread; i < p.num_heads * per_head; i += threads) {
    const int head = i / per_head, item = i % per_head;
    T* place = out + head * p.head_dim;
    if (valid) {
      rotate_item<T, N>(p, in + head * p.q_head_stride, place, position, item);
      continue;
    }
    const Pack<T, N> zeros{};
    const int64_t half = p.rotary_dim / 2;
    if (item * N < half) *reinterpret_cast<Pack<T, N>*>(place + item * N) = zeros;
    *reinterpret_cast<Pack<T, N>*>(place + half + item * N) = zeros;
  }
}

// One row of k and v. Padding (slot -1) and anything out of range is not written.
template <class T, int N>
DPAD_HOST_DEVICE inline void rope_kv_row(const RopeKvWriteParams& p, int64_t row, int thread,
                                         int threads) {
  const int64_t slot = p.slot[row], position = p.position[row];
  if (!inside(slot, p.capacity) || !inside(position, p.positions)) return;
  const int64_t b = sequence_of(p.q_offsets, p.batch, row);
  if (b < 0 || !inside(p.cache_row[b], p.cache_rows)) return;
  const T* k = static_cast<const T*>(p.k) + row * p.k_row_stride;
  const T* v = static_cast<const T*>(p.v) + row * p.v_row_stride;
  T* k_out =
      static_cast<T*>(p.k_cache) + p.cache_row[b] * p.k_cache_stride + slot * p.k_cache_slot_stride;
  T* v_out =
      static_cast<T*>(p.v_cache) + p.cache_row[b] * p.v_cache_stride + slot * p.v_cache_slot_stride;
  const int rotated = static_cast<int>((p.head_dim - p.rotary_dim / 2) / N);
  const int copied = static_cast<int>(p.head_dim / N), per_head = rotated + copied;
  for (int i = thread; i < p.num_kv_heads * per_head; i += threads) {
    const int head = i / per_head, item = i % per_head;
    if (item < rotated) {
      rotate_item<T, N>(p, k + head * p.k_head_stride, k_out + head * p.k_cache_head_stride,
                        position, item);
    } else {
      const int64_t at = int64_t{item - rotated} * N;
      *reinterpret_cast<Pack<T, N>*>(v_out + head * p.v_cache_head_stride + at) =
          *reinterpret_cast<const Pack<T, N>*>(v + head * p.v_head_stride + at);
    }
  }
}

// One block takes a row of q or a row of k and v at a time.
template <class T, int N>
DPAD_KERNEL(kThreads, 4)
rope_kv_write_kernel(const RopeKvWriteParams p) {
  for (int64_t i = block_x(); i < p.q_rows + p.rows; i += grid_x()) {
    if (i < p.q_rows) {
      rope_q_row<T, N>(p, i, thread_index(), kThreads);
    } else {
      rope_kv_row<T, N>(p, i - p.q_rows, thread_index(), kThreads);
    }
  }
}

// True when all head vectors, and their halves, can be moved 16 bytes at a time.
template <class T>
bool rope_kv_write_wide(const RopeKvWriteParams& p) {
  constexpr int64_t size = sizeof(T);
  return aligned(size, p.q_out, p.head_dim, p.rotary_dim / 2) &&
         aligned(size, p.q, p.q_row_stride, p.q_head_stride) &&
         aligned(size, p.k, p.k_row_stride, p.k_head_stride) &&
         aligned(size, p.v, p.v_row_stride, p.v_head_stride) &&
         aligned(size, p.k_cache, p.k_cache_stride, p.k_cache_head_stride, p.k_cache_slot_stride) &&
         aligned(size, p.v_cache, p.v_cache_stride, p.v_cache_head_stride, p.v_cache_slot_stride);
}

}  // namespace dpad::cuda
