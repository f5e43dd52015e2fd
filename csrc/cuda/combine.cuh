// A first kernel turns the order into places; then a block takes a row at a time.
#pragma once

#include "cuda/block.cuh"
#include "cuda/rows.cuh"
#include "cuda/scalar.cuh"
#include "params.h"

namespace dpad::cuda {

DPAD_KERNEL(kThreads, 4) combine_places_kernel(const CombineParams p) {
  const int64_t pairs = p.rows * p.top_k, step = grid_x() * kThreads;
  for (int64_t i = block_x() * kThreads + thread_index(); i < pairs; i += step) {
    if (inside(p.order[i], pairs)) p.place[p.order[i]] = i;
  }
}

// The terms of a row in the order in which they are added, in shared memory.
struct CombineTerms {
  int64_t* place;  // [top_k]
  float* weight;   // [top_k]

  DPAD_HOST_DEVICE static int64_t bytes(int64_t top_k) { return top_k * 12; }

  DPAD_DEVICE explicit CombineTerms(int64_t top_k)
      : place(static_cast<int64_t*>(dynamic_shared())),
        weight(reinterpret_cast<float*>(place + top_k)) {}

  // False where the order lacks a pair of the row: what stands in its place then is no place of it.
  template <class T>
  DPAD_DEVICE bool fill(const CombineParams& p, int64_t row) const {
    const int64_t first = row * p.top_k;
    bool good = true;
    for (int64_t k = thread_index(); k < p.top_k; k += kThreads) {
      const int64_t own = p.place[first + k];
      good = good && inside(own, p.rows * p.top_k) && p.order[own] == first + k;
      int64_t at = k;
      if (!p.full_precision) {  // experts in ascending order
        at = 0;
        for (int64_t j = 0; j < p.top_k; ++j) at += p.place[first + j] < own ? 1 : 0;
      }
      place[at] = own;
      const float w = p.weight[first + k];
      weight[at] = !p.full_precision && p.round_weights ? rounded<T>(w) : w;
    }
    return !any_in_block(!good);
  }
};

template <class T, int N>
DPAD_DEVICE void combine_columns(const CombineParams& p, int64_t row, int64_t column,
                                 const CombineTerms& terms, bool good) {
  float sum[N];
  DPAD_UNROLL
  for (int j = 0; j < N; ++j) sum[j] = good ? 0.0f : NAN;
  for (int64_t k = 0; good && k < p.top_k; ++k) {
    const float w = terms.weight[k];
    const auto y =
        read_pack<T, N>(static_cast<const T*>(p.y) + terms.place[k] * p.y_stride + column);
    DPAD_UNROLL
    for (int j = 0; j < N; ++j) {
      const float term = mul_rn(to_float(y.at[j]), w);
      sum[j] =
          p.full_precision ? add_rn(sum[j], term) : rounded<T>(add_rn(sum[j], rounded<T>(term)));
    }
  }
  Pack<T, N> out;
  DPAD_UNROLL
  for (int j = 0; j < N; ++j) out.at[j] = from_float<T>(sum[j]);
  write_pack(static_cast<T*>(p.out) + row * p.width + column, out);
}

template <class T, int N>
DPAD_KERNEL(kThreads, 4)
combine_kernel(const CombineParams p) {
  const CombineTerms terms(p.top_k);
  for (int64_t row = block_x(); row < p.rows; row += grid_x()) {
    block_sync();  // the terms of the row before have been read
    const bool good = terms.fill<T>(p, row);
    for (int64_t at = thread_index() * N; at < p.width; at += kThreads * N) {
      combine_columns<T, N>(p, row, at, terms, good);
    }
  }
}

// True when every row can be read and written 16 bytes at a time.
template <class T>
bool combine_wide(const CombineParams& p) {
  return aligned(sizeof(T), p.y, p.y_stride, p.width) && aligned(sizeof(T), p.out);
}

}  // namespace dpad::cuda
