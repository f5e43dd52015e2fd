// silu in float32, rounded to the dtype, times up in the dtype.
#pragma once

#include "cuda/block.cuh"
#include "cuda/rows.cuh"
#include "cuda/scalar.cuh"
#include "params.h"

namespace dpad::cuda {

template <class T>
DPAD_DEVICE T swiglu_element(T gate, T up) {
  const float x = to_float(gate);
  const float silu = rounded<T>(x / add_rn(1.0f, expf(-x)));
  return from_float<T>(mul_rn(silu, to_float(up)));
}

// What thread `thread` of the `threads` of one row does, N elements at a time.
template <class T, int N>
DPAD_DEVICE void swiglu_row(const SwigluParams& p, int64_t row, int64_t thread, int64_t threads) {
  const T* gate = static_cast<const T*>(p.gate) + row * p.gate_stride;
  const T* up = static_cast<const T*>(p.up) + row * p.up_stride;
  T* out = static_cast<T*>(p.out) + row * p.width;
  for (int64_t i = thread * N; i < p.width; i += threads * N) {
    const auto g = read_pack<T, N>(gate + i);
    const auto u = read_pack<T, N>(up + i);
    Pack<T, N> result;
    DPAD_UNROLL
    for (int j = 0; j < N; ++j) result.at[j] = swiglu_element(g.at[j], u.at[j]);
    write_pack(out + i, result);
  }
}

template <class T, int N>
DPAD_KERNEL(kThreads, 4)
swiglu_kernel(const SwigluParams p) {
  const int64_t thread = block_x() * kThreads + thread_index();
  for (int64_t row = block_y(); row < p.rows; row += grid_y()) {
    swiglu_row<T, N>(p, row, thread, grid_x() * kThreads);
  }
}

// True when every row can be read and written 16 bytes at a time.
template <class T>
bool swiglu_wide(const SwigluParams& p) {
  return aligned(sizeof(T), p.gate, p.gate_stride, p.width) &&
         aligned(sizeof(T), p.up, p.up_stride) && aligned(sizeof(T), p.out);
}

}  // namespace dpad::cuda
