// Rounding points of the models' own code: silu in float32, rounded to dtype, times up, rounded.
#pragma once

#include "cpu/swiglu_piece.h"
#include "cpu/vec_math.h"

namespace dpad::cpu {
namespace {

template <typename T>
inline F gated(F gate, F up) {
  const F silu = gate / (set1(1.0f) + exp_any(zero() - gate));
  return round_to(static_cast<const T*>(nullptr), silu) * up;
}

template <typename T>
void swiglu_columns(const T* gate, const T* up, T* out, int64_t count) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    store(out + i, gated<T>(load(gate + i), load(up + i)));
  }
  if (i < count) {
    const int64_t rest = count - i;
    store_part(out + i, gated<T>(load_part(gate + i, rest), load_part(up + i, rest)), rest);
  }
}

}  // namespace

void DPAD_ISA(swiglu_piece)(const SwigluParams& p, int64_t row, int64_t begin, int64_t end) {
  with_type(p.dtype, [&]<typename T>() {
    swiglu_columns(static_cast<const T*>(p.gate) + row * p.gate_stride + begin,
                   static_cast<const T*>(p.up) + row * p.up_stride + begin,
                   static_cast<T*>(p.out) + row * p.width + begin, end - begin);
  });
}

}  // namespace dpad::cpu
