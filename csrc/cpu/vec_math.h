// Functions over the vectors of one instruction set; include after vec_<isa>.h.
#pragma once

#include <cstddef>

#include "params.h"

namespace dpad::cpu {
namespace {

inline F zero() { return set1(0.0f); }

// 0 < n <= kWidth values; the other lanes are zero.
template <typename T>
inline F load_part(const T* p, int64_t n) {
  T lanes[kWidth] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(n) * sizeof(T));
  return load(lanes);
}

template <typename T>
inline void store_part(T* p, F x, int64_t n) {
  T lanes[kWidth];
  store(lanes, x);
  __builtin_memcpy(p, lanes, static_cast<size_t>(n) * sizeof(T));
}

// Calls body(first, count) for whole vectors, then for the rest.
template <typename Body>
inline void for_vectors(int64_t width, Body body) {
  int64_t i = 0;
  for (; i + kWidth <= width; i += kWidth) body(i, kWidth);
  if (i < width) body(i, width - i);
}

template <typename T>
inline F load_some(const T* p, int64_t n) {
  return n == kWidth ? load(p) : load_part(p, n);
}

template <typename T>
inline void store_some(T* p, F x, int64_t n) {
  n == kWidth ? store(p, x) : store_part(p, x, n);
}

// x rounded to T and widened again.
inline F round_to(const float*, F x) { return x; }
template <typename T>
inline F round_to(const T*, F x) {
  T lanes[kWidth];
  store(lanes, x);
  return load(lanes);
}

inline float largest(F x) {
  float lanes[kWidth];
  store(lanes, x);
  float best = lanes[0];
  for (int64_t i = 1; i < kWidth; ++i) best = lanes[i] > best ? lanes[i] : best;
  return best;
}

// Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
constexpr float kRound = 12582912.0f;
constexpr float kLog2E = 1.44269504088896341f;

// 2^r for |r| <= 0.5, exactly 1 at 0; relative error below 1.6e-7 (minimax polynomial).
inline F exp2_reduced(F r) {
  F p = fma(set1(1.326472731e-3f), r, set1(9.671512991e-3f));
  p = fma(p, r, set1(5.550733581e-2f));
  p = fma(p, r, set1(2.402224243e-1f));
  p = fma(p, r, set1(6.931470037e-1f));
  return fma(p, r, set1(1.0f));
}

constexpr float kExp2Zero = -127.0f;  // 2^x is exactly 0 here

// 2^x for kExp2Zero <= x <= 0; at most 2^-126 where it is not accurate. A NaN can get lost.
inline F exp2_clamped(F x) {
  const F shifted = x + set1(kRound);
  return add_exponent(exp2_reduced(x - (shifted - set1(kRound))), shifted);
}

// exp(x) for x <= 0, exactly 1 at 0 and 0 at minus infinity; a NaN stays a NaN.
inline F exp_nonpositive(F x) {
  x = max(set1(kExp2Zero), x * set1(kLog2E));
  const F shifted = x + set1(kRound + 127.0f);  // n + the exponent's bias
  const F n = shifted - set1(kRound + 127.0f);
  return exp2_reduced(x - n) * low_bits_to_exponent(shifted);
}

// exp(x) for every x: subnormal results, infinity and NaN included. Relative error below 2e-7:
// x - n ln 2 is formed in two steps, the first of which is exact.
inline F exp_any(F x) {
  x = max(set1(-105.0f), min(set1(90.0f), x));
  const F n = fma(x, set1(kLog2E), set1(kRound)) - set1(kRound);
  F r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  const F half = fma(n, set1(0.5f), set1(kRound + 127.0f));  // 2^n = 2^half 2^rest
  const F rest = (n - (half - set1(kRound + 127.0f))) + set1(kRound + 127.0f);
  return exp2_reduced(r * set1(kLog2E)) * low_bits_to_exponent(half) * low_bits_to_exponent(rest);
}

// Calls fn.operator()<element type>().
template <typename Fn>
inline void with_type(DType dtype, Fn fn) {
  switch (dtype) {
    case DType::kFloat32:
      return fn.template operator()<float>();
    case DType::kBFloat16:
      return fn.template operator()<BFloat16>();
    case DType::kFloat16:
      return fn.template operator()<Float16>();
  }
}

}  // namespace
}  // namespace dpad::cpu
