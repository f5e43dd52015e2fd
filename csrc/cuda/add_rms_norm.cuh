// The residual sum is rounded to the dtype; the norm is taken in float32 and rounded before it is
// multiplied by the weight in the dtype (the models' own rounding points).
#pragma once

#include "cuda/block.cuh"
#include "cuda/rows.cuh"
#include "cuda/scalar.cuh"
#include "params.h"

namespace dpad::cuda {

// N elements of a row on their way from the sum to the norm.
template <class T, int N>
struct NormItem {
  Pack<T, N> x{}, delta{}, weight{};

  DPAD_DEVICE void read(const AddRmsNormParams& p, int64_t row, int64_t at) {
    x = read_pack<T, N>(static_cast<const T*>(p.residual) + row * p.residual_stride + at);
    if (p.delta != nullptr) {
      delta = read_pack<T, N>(static_cast<const T*>(p.delta) + row * p.delta_stride + at);
    }
    weight = read_pack<T, N>(static_cast<const T*>(p.weight) + at);
  }

  // Adds delta, in the residual as well; `sum` grows by the squares.
  DPAD_DEVICE void add(const AddRmsNormParams& p, int64_t row, int64_t at, float& sum) {
    if (p.delta != nullptr) {
      DPAD_UNROLL
      for (int j = 0; j < N; ++j) {
        x.at[j] = from_float<T>(add_rn(to_float(x.at[j]), to_float(delta.at[j])));
      }
      write_pack(static_cast<T*>(p.residual) + row * p.residual_stride + at, x);
    }
    DPAD_UNROLL
    for (int j = 0; j < N; ++j) sum = add_rn(sum, mul_rn(to_float(x.at[j]), to_float(x.at[j])));
  }

  DPAD_DEVICE void write(const AddRmsNormParams& p, int64_t row, int64_t at, float scale) const {
    Pack<T, N> result;
    DPAD_UNROLL
    for (int j = 0; j < N; ++j) {
      const float normed = rounded<T>(mul_rn(to_float(x.at[j]), scale));
      result.at[j] = from_float<T>(mul_rn(to_float(weight.at[j]), normed));
    }
    write_pack(static_cast<T*>(p.out) + row * p.width + at, result);
  }
};

// Items that a thread reads before it works on the first, and keeps in registers; of wider rows it
// reads the rest twice.
inline constexpr int kHeld = 2;

// One block takes a row at a time. Every thread reads back only what it wrote itself.
template <class T, int N>
DPAD_KERNEL(kThreads, 3)
add_rms_norm_kernel(const AddRmsNormParams p) {
  constexpr int64_t kStep = kThreads * N;
  const int64_t begin = int64_t{thread_index()} * N, rest = begin + kHeld * kStep;
  for (int64_t row = block_x(); row < p.rows; row += grid_x()) {
    NormItem<T, N> held[kHeld], item;
    float sum = 0;
    DPAD_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      if (begin + i * kStep < p.width) held[i].read(p, row, begin + i * kStep);
    }
    DPAD_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      if (begin + i * kStep < p.width) held[i].add(p, row, begin + i * kStep, sum);
    }
    for (int64_t at = rest; at < p.width; at += kStep) {
      item.read(p, row, at);
      item.add(p, row, at, sum);
    }
    sum = block_reduce(sum, Sum());
    const float scale = 1.0f / sqrtf(sum / static_cast<float>(p.width) + p.eps);
    DPAD_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      if (begin + i * kStep < p.width) held[i].write(p, row, begin + i * kStep, scale);
    }
    for (int64_t at = rest; at < p.width; at += kStep) {
      item.read(p, row, at);
      item.write(p, row, at, scale);
    }
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
