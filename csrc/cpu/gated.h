// The rounding points of the models' own SwiGLU: silu in float32, rounded to dtype, times up.
#pragma once

#include "cpu/vec_math.h"

namespace dpad::cpu {
namespace {

// T's values as float32 in, and the product out, which is to be rounded to T.
template <typename T>
inline F gated(F gate, F up) {
  const F silu = gate / (set1(1.0f) + exp_any(zero() - gate));
  return round_to(static_cast<const T*>(nullptr), silu) * up;
}

}  // namespace
}  // namespace dpad::cpu
