// The residual sum is rounded to the dtype; the norm is taken in float32 and rounded before it is
// multiplied by the weight in the dtype (the models' own rounding points).
#pragma once

#include "cuda/block.cuh"
#include "cuda/rows.cuh"
#include "cuda/scalar.cuh"
#include "params.h"

namespace dpad::cuda {

// Adds delta into this thread's part of the row; returns its sum of squares.
template <class T, int N>
DPAD_HOST_DEVICE inline float add_and_square(const AddRmsNormParams& p, int64_t row, int thread,
                                             int threads) {
  T* residual = static_cast<T*>(p.residual) + row * p.residual_stride;
  const T* delta = static_cast<const T*>(p.delta);
  if (delta != nullptr) delta += row * p.delta_stride;
  float sum = 0;
  for (int64_t i = int64_t{thread} * N; i < p.width; i += int64_t{threads} * N) {
    auto* place = reinterpret_cast<Pack<T, N>*>(residual + i);
    Pack<T, N> x = *place;
    if (delta != nullptr) {
      const auto d = *reinterpret_cast<const Pack<T, N>*>(delta + i);
      for (int j = 0; j < N; ++j) {
        x.at[j] = from_float<T>(add_rn(to_float(x.at[j]), to_float(d.at[j])));
      }
      *place = x;
    }
    for (int j = 0; j < N; ++j) sum = add_rn(sum, mul_rn(to_float(x.at[j]), to_float(x.at[j])));
  }
  return sum;
}

// Writes this thread's part of the normed row; `sum` is the whole row's sum of squares.
template <class T, int N>
DPAD_HOST_DEVICE inline void normalise(const AddRmsNormParams& p, int64_t row, int thread,
                                       int threads, float sum) {
  const T* residual = static_cast<const T*>(p.residual) + row * p.residual_stride;
  const T* weight = static_cast<const T*>(p.weight);
  T* out = static_cast<T*>(p.out) + row * p.width;
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(p.width) + p.eps);
  for (int64_t i = int64_t{thread} * N; i < p.width; i += int64_t{threads} * N) {
    const auto x = *reinterpret_cast<const Pack<T, N>*>(residual + i);
    const auto w = *reinterpret_cast<const Pack<T, N>*>(weight + i);
    Pack<T, N> result;
    for (int j = 0; j < N; ++j) {
      const float normed = rounded<T>(mul_rn(to_float(x.at[j]), scale));
      result.at[j] = from_float<T>(mul_rn(to_float(w.at[j]), normed));
    }
    *reinterpret_cast<Pack<T, N>*>(out + i) = result;
  }
}

// One block takes a row at a time. Every thread reads back only what it wrote itself.
template <class T, int N>
DPAD_KERNEL(kThreads, 4)
add_rms_norm_kernel(const AddRmsNormParams p) {
  for (int64_t row = block_x(); row < p.rows; row += grid_x()) {
    const float part = add_and_square<T, N>(p, row, thread_index(), kThreads);
    normalise<T, N>(p, row, thread_index(), kThreads, block_reduce(part, Sum(), 0.0f));
  }
}

// True when every row can be read and written 16 bytes at a time.
template <class T>
bool add_rms_norm_wide(const AddRmsNormParams& p) {
  return aligned(sizeof(T), p.residual, p.residual_stride, p.width) &&
         aligned(sizeof(T), p.delta, p.delta_stride) && aligned(sizeof(T), p.weight) &&
         aligned(sizeof(T), p.out);
}

}  // namespace dpad::cuda
