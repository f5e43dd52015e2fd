// Four float32 lanes in GCC / Clang vector extensions: the instruction set every machine has.
// Products are never fused: fma() rounds twice here.
#pragma once

#include <cstdint>

#include "core/half.h"

#define DPAD_ISA(name) name##_portable

namespace dpad::cpu {

using half::BFloat16;
using half::bits_of_float;
using half::Float16;
using half::from_float;
using half::to_float;

namespace {

constexpr int64_t kWidth = 4;
constexpr int64_t kBlock = 4;  // kBlock x 2 accumulators fit into the registers

typedef float F __attribute__((vector_size(16)));
typedef uint32_t U __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef uint16_t H __attribute__((vector_size(8)));

struct D {  // float64 accumulators, one per lane
  double lane[kWidth] = {};
};

inline F set1(float x) { return F{x, x, x, x}; }
inline F select(I mask, F yes, F no) { return F((I(yes) & mask) | (I(no) & ~mask)); }

inline F load(const float* p) {
  F x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
inline F load(const BFloat16* p) {
  H h;
  __builtin_memcpy(&h, p, sizeof h);
  return F(__builtin_convertvector(h, U) << 16);
}
inline F load(const Float16* p) {
  return F{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
}
// The next 2 * kWidth values in any order.
template <typename T>
inline void load2(const T* p, F& a, F& b) {
  a = load(p);
  b = load(p + kWidth);
}

inline void store(float* p, F x) { __builtin_memcpy(p, &x, sizeof x); }
inline void store(BFloat16* p, F x) {
  const U bits = U(x);
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const I nan = x != x;
  const H h = __builtin_convertvector((rounded & ~U(nan)) | (U(nan) & 0x7fc0u), H);
  __builtin_memcpy(p, &h, sizeof h);
}
inline void store(Float16* p, F x) {
  for (int64_t i = 0; i < kWidth; ++i) from_float(x[i], p[i]);
}

inline F fma(F a, F b, F c) { return a * b + c; }
// max and min return b where either argument is a NaN, as SSE does.
inline F max(F a, F b) { return select(a > b, a, b); }
inline F min(F a, F b) { return select(a < b, a, b); }
inline F where_less(F a, F b, F yes, F no) { return select(a < b, yes, no); }
inline bool any_greater(F a, F b) {
  const I mask = a > b;
  return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
}
// The low 9 bits of each lane's representation moved to the sign and exponent.
inline F low_bits_to_exponent(F x) { return F(U(x) << 23); }
// 2^n p where n is in the low bits of `x`, without care for overflow.
inline F add_exponent(F p, F x) { return F(U(p) + (U(x) << 23)); }

// Element j of vector i becomes element i of vector j.
inline void transpose(F (&x)[kWidth]) {
  const F a[kWidth] = {x[0], x[1], x[2], x[3]};
  for (int64_t i = 0; i < kWidth; ++i) x[i] = F{a[0][i], a[1][i], a[2][i], a[3][i]};
}

// Half as many lanes, for few rows.
typedef float Half __attribute__((vector_size(8)));
inline void read(F& x, const float* p) { x = load(p); }
inline void fill(F& x, float value) { x = set1(value); }
inline void read(Half& x, const float* p) { __builtin_memcpy(&x, p, sizeof x); }
inline void fill(Half& x, float value) { x = Half{value, value}; }
inline void store(float* p, Half x) { __builtin_memcpy(p, &x, sizeof x); }
inline Half fma(Half a, Half b, Half c) { return a * b + c; }

inline void accumulate(D& d, F x) {
  for (int64_t i = 0; i < kWidth; ++i) d.lane[i] += double{x[i]};
}
inline void accumulate_square(D& d, F x) {
  for (int64_t i = 0; i < kWidth; ++i) d.lane[i] += double{x[i]} * double{x[i]};
}
inline double total(const D& d) { return (d.lane[0] + d.lane[1]) + (d.lane[2] + d.lane[3]); }

inline U set1(uint32_t x) { return U{x, x, x, x}; }
inline U count_from(uint32_t first) { return U{first, first + 1, first + 2, first + 3}; }
inline void store(uint32_t* p, U x) { __builtin_memcpy(p, &x, sizeof x); }
// The two halves of the 64-bit products.
inline void multiply(U a, U b, U& high, U& low) {
  for (int64_t i = 0; i < kWidth; ++i) high[i] = uint32_t(uint64_t{a[i]} * b[i] >> 32);
  low = a * b;
}

}  // namespace
}  // namespace dpad::cpu
