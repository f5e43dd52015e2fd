// Half-split rotation (rotate_half): dimension i pairs with i + rotary_dim / 2.
//
//   out[i]        = x[i] * cos[i] - x[i + half] * sin[i]
//   out[i + half] = x[i + half] * cos[i] + x[i] * sin[i]
//
// Each product is rounded before the sum, as separate tensor operations round it.
#pragma once

#include "cpu/rope_kv_write_head.h"
#include "cpu/vec_math.h"

namespace dpad::cpu {
namespace {

// Rounding of intermediate values: none, or to T.
template <typename T, bool kFull>
inline F keep(F x) {
  if constexpr (kFull) return x;
  return round_to(static_cast<const T*>(nullptr), x);
}

template <typename T, bool kFull>
inline void rotate(F& low, F& high, F cos, F sin) {
  cos = keep<T, kFull>(cos);
  sin = keep<T, kFull>(sin);
  const F first = keep<T, kFull>(low * cos) - keep<T, kFull>(high * sin);
  high = keep<T, kFull>(high * cos) + keep<T, kFull>(low * sin);
  low = first;
}

template <typename T, bool kFull>
void rotate_head(const RopeKvWriteParams& p, int64_t position, const T* from, T* to) {
  const int64_t half = p.rotary_dim / 2;
  const float* cos = p.cos + position * half;
  const float* sin = p.sin + position * half;
  int64_t i = 0;
  for (; i + kWidth <= half; i += kWidth) {
    F low = load(from + i), high = load(from + half + i);
    rotate<T, kFull>(low, high, load(cos + i), load(sin + i));
    store(to + i, low);
    store(to + half + i, high);
  }
  if (i < half) {
    const int64_t rest = half - i;
    F low = load_part(from + i, rest), high = load_part(from + half + i, rest);
    rotate<T, kFull>(low, high, load_part(cos + i, rest), load_part(sin + i, rest));
    store_part(to + i, low, rest);
    store_part(to + half + i, high, rest);
  }
  for (i = p.rotary_dim; i < p.head_dim; ++i) to[i] = from[i];
}

}  // namespace

void DPAD_ISA(rotate_heads)(const RopeKvWriteParams& p, int64_t position, int64_t heads,
                            const void* from, int64_t from_stride, void* to, int64_t to_stride) {
  with_type(p.dtype, [&]<typename T>() {
    const T* in = static_cast<const T*>(from);
    T* out = static_cast<T*>(to);
    for (int64_t head = 0; head < heads; ++head, in += from_stride, out += to_stride) {
      p.full_precision ? rotate_head<T, true>(p, position, in, out)
                       : rotate_head<T, false>(p, position, in, out);
    }
  });
}

}  // namespace dpad::cpu
