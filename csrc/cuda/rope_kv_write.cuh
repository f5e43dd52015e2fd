// Half-split RoPE with separately rounded products, and the write into the K/V cache.
#pragma once

#include "cuda/block.cuh"
#include "cuda/rows.cuh"
#include "cuda/scalar.cuh"
#include "params.h"

namespace dpad::cuda {

// a c + b s: in float32 and rounded once, or every operand and product rounded to T.
template <class T>
DPAD_DEVICE T turn(float a, float b, float c, float s, bool full_precision) {
  if (full_precision) return from_float<T>(add_rn(mul_rn(a, c), mul_rn(b, s)));
  const float first = rounded<T>(mul_rn(a, rounded<T>(c)));
  return from_float<T>(add_rn(first, rounded<T>(mul_rn(b, rounded<T>(s)))));
}

// Rotates one head vector; `item` counts packs of N pairs, then packs of N unrotated elements.
template <class T, int N>
DPAD_DEVICE void rotate_item(const RopeKvWriteParams& p, const T* in, T* out, int64_t position,
                             int item) {
  const int half = static_cast<int>(p.rotary_dim / 2), first = item * N;
  const auto high = read_pack<T, N>(in + half + first);
  if (first >= half) return write_pack(out + half + first, high);
  const auto low = read_pack<T, N>(in + first);
  const auto cos = read_pack<float, N>(p.cos + position * half + first);
  const auto sin = read_pack<float, N>(p.sin + position * half + first);
  Pack<T, N> new_low, new_high;
  DPAD_UNROLL
  for (int j = 0; j < N; ++j) {
    const float a = to_float(low.at[j]), b = to_float(high.at[j]);
    new_low.at[j] = turn<T>(a, -b, cos.at[j], sin.at[j], p.full_precision);
    new_high.at[j] = turn<T>(b, a, cos.at[j], sin.at[j], p.full_precision);
  }
  write_pack(out + first, new_low);
  write_pack(out + half + first, new_high);
}

// One item of a row of q. A position out of range gives zeros.
template <class T, int N>
DPAD_DEVICE void rope_q_item(const RopeKvWriteParams& p, int64_t row, int head, int item) {
  const T* in = static_cast<const T*>(p.q) + row * p.q_row_stride + head * p.q_head_stride;
  T* out = static_cast<T*>(p.q_out) + (row * p.num_heads + head) * p.head_dim;
  const int64_t position = p.q_position[row];
  if (inside(position, p.positions)) return rotate_item<T, N>(p, in, out, position, item);
  const Pack<T, N> zeros{};
  const int64_t half = p.rotary_dim / 2;
  if (item * N < half) write_pack(out + item * N, zeros);
  write_pack(out + half + item * N, zeros);
}

// Where a row of k and v goes; false for padding (slot -1) and for anything out of range, which are
// not written.
struct CachePlace {
  int64_t slot, position;  // slot of the arena

  DPAD_DEVICE bool find(const RopeKvWriteParams& p, int64_t row) {
    slot = p.slot[row], position = p.position[row];
    const int64_t b = warp_sequence_of(p.q_offsets, p.batch, row);
    if (!inside(slot, p.slots) || !inside(position, p.positions) || b < 0) return false;
    const int64_t start = p.kv_start[b];
    slot += start;
    return start >= 0 && inside(slot, p.slots);
  }
};

template <class T, int N>
DPAD_DEVICE void rope_k_item(const RopeKvWriteParams& p, int64_t row, const CachePlace& place,
                             int head, int item) {
  const T* in = static_cast<const T*>(p.k) + row * p.k_row_stride + head * p.k_head_stride;
  T* out = static_cast<T*>(p.k_cache) + place.slot * p.k_cache_slot_stride +
           head * p.k_cache_head_stride;
  rotate_item<T, N>(p, in, out, place.position, item);
}

template <class T, int N>
DPAD_DEVICE void copy_v_item(const RopeKvWriteParams& p, int64_t row, const CachePlace& place,
                             int head, int item) {
  const T* in = static_cast<const T*>(p.v) + row * p.v_row_stride + head * p.v_head_stride;
  T* out = static_cast<T*>(p.v_cache) + place.slot * p.v_cache_slot_stride +
           head * p.v_cache_head_stride;
  write_pack(out + item * N, read_pack<T, N>(in + item * N));
}

// Pieces of kThreads items that the rows of q, of k and of v are cut into.
struct RopePieces {
  int rotated, copied;  // items of a head
  int64_t q, k, v;

  DPAD_HOST_DEVICE RopePieces(const RopeKvWriteParams& p, int n)
      : rotated(static_cast<int>((p.head_dim - p.rotary_dim / 2) / n)),
        copied(static_cast<int>(p.head_dim / n)),
        q(pieces(p.num_heads * rotated)),
        k(pieces(p.num_kv_heads * rotated)),
        v(pieces(p.num_kv_heads * copied)) {}
  DPAD_HOST_DEVICE static int64_t pieces(int64_t items) {
    return (items + kThreads - 1) / kThreads;
  }
};

// Blocks [rows, pieces]: a thread has one item of a row, so that nothing waits for another's.
template <class T, int N>
DPAD_KERNEL(kThreads, 4)
rope_kv_write_kernel(const RopeKvWriteParams p) {
  const RopePieces pieces(p, N);
  const int64_t piece = block_y(), row = block_x();
  if (piece < pieces.q) {
    const int i = static_cast<int>(piece) * kThreads + thread_index();
    const int head = i / pieces.rotated;
    if (row < p.q_rows && head < p.num_heads) {
      rope_q_item<T, N>(p, row, head, i % pieces.rotated);
    }
    return;
  }
  CachePlace place;
  if (row >= p.rows || !place.find(p, row)) return;
  const bool of_k = piece < pieces.q + pieces.k;
  const int64_t before = pieces.q + (of_k ? 0 : pieces.k);
  const int i = static_cast<int>(piece - before) * kThreads + thread_index();
  const int per_head = of_k ? pieces.rotated : pieces.copied, head = i / per_head;
  if (head >= p.num_kv_heads) return;
  of_k ? rope_k_item<T, N>(p, row, place, head, i % per_head)
       : copy_v_item<T, N>(p, row, place, head, i % per_head);
}

// True when all head vectors, and their halves, can be moved 16 bytes at a time.
template <class T>
bool rope_kv_write_wide(const RopeKvWriteParams& p) {
  constexpr int64_t size = sizeof(T);
  return aligned(size, p.q_out, p.head_dim, p.rotary_dim / 2) && aligned(4, p.cos) &&
         aligned(4, p.sin) && aligned(size, p.q, p.q_row_stride, p.q_head_stride) &&
         aligned(size, p.k, p.k_row_stride, p.k_head_stride) &&
         aligned(size, p.v, p.v_row_stride, p.v_head_stride) &&
         aligned(size, p.k_cache, p.k_cache_head_stride, p.k_cache_slot_stride) &&
         aligned(size, p.v_cache, p.v_cache_head_stride, p.v_cache_slot_stride);
}

}  // namespace dpad::cuda
