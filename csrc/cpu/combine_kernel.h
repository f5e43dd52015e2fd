// Products are rounded before they are added, in float32 or in dtype: no FMA.
#pragma once

#include "cpu/combine_row.h"
#include "cpu/vec_math.h"

namespace dpad::cpu {
namespace {

template <typename T>
void combine_columns(const CombineParams& p, int64_t row, const int64_t* place,
                     const float* weight) {
  const T* const y = static_cast<const T*>(p.y);
  T* const out = static_cast<T*>(p.out) + row * p.width;
  for_vectors(p.width, [&](int64_t i, int64_t n) {
    F sum = zero();
    for (int64_t k = 0; k < p.top_k; ++k) {
      const F term = load_some(y + place[k] * p.y_stride + i, n) * set1(weight[k]);
      sum = p.full_precision ? sum + term : round_to(y, sum + round_to(y, term));
    }
    store_some(out + i, sum, n);
  });
}

}  // namespace

void DPAD_ISA(combine_row)(const CombineParams& p, int64_t row, const int64_t* place,
                           const float* weight) {
  with_type(p.dtype, [&]<typename T>() { combine_columns<T>(p, row, place, weight); });
}

}  // namespace dpad::cpu
