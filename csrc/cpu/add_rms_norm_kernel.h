// Rounding points of the models' own RMSNorm: the sum residual + delta is rounded to dtype; the
// statistics are float32; x * rsqrt(mean square + eps) is rounded to dtype before the weight.
// The squares are summed in float64, where they are exact: the mean does not depend on the order.
#pragma once

#include "cpu/add_rms_norm_row.h"
#include "cpu/vec_math.h"

namespace dpad::cpu {
namespace {

template <typename T>
void norm_row(const AddRmsNormParams& p, int64_t row) {
  T* const residual = static_cast<T*>(p.residual) + row * p.residual_stride;
  const T* const weight = static_cast<const T*>(p.weight);
  T* const out = static_cast<T*>(p.out) + row * p.width;
  D squares;
  if (p.delta == nullptr) {
    for_vectors(p.width, [&](int64_t i, int64_t n) {
      accumulate_square(squares, load_some(residual + i, n));
    });
  } else {
    const T* const delta = static_cast<const T*>(p.delta) + row * p.delta_stride;
    for_vectors(p.width, [&](int64_t i, int64_t n) {
      const F sum = round_to(delta, load_some(residual + i, n) + load_some(delta + i, n));
      store_some(residual + i, sum, n);
      accumulate_square(squares, sum);
    });
  }
  const float mean = static_cast<float>(total(squares) / static_cast<double>(p.width));
  const F scale = set1(1.0f / __builtin_sqrtf(mean + p.eps));
  for_vectors(p.width, [&](int64_t i, int64_t n) {
    const F normed = round_to(weight, load_some(residual + i, n) * scale);
    store_some(out + i, load_some(weight + i, n) * normed, n);
  });
}

}  // namespace

void DPAD_ISA(add_rms_norm_row)(const AddRmsNormParams& p, int64_t row) {
  with_type(p.dtype, [&]<typename T>() { norm_row<T>(p, row); });
}

}  // namespace dpad::cpu
