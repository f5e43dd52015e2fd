// bfloat16 and float16 as bits, with scalar conversions. Everything has internal linkage: files
// compiled for one instruction set must not hand inline functions to the rest of the program.
#pragma once

#include <cstdint>

#include "params.h"

namespace dpad::half {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

static inline float float_of_bits(uint32_t bits) { return __builtin_bit_cast(float, bits); }
static inline uint32_t bits_of_float(float x) { return __builtin_bit_cast(uint32_t, x); }

static inline float to_float(float x) { return x; }

static inline float to_float(BFloat16 x) { return float_of_bits(uint32_t{x.bits} << 16); }

static inline float to_float(Float16 x) {
  const uint32_t magnitude = x.bits & 0x7fffu;
  // Shifted into float's fields the exponent is 112 too small, or 143 for infinity and NaN. A
  // subnormal half gets the exponent of 2^-14 and loses that again: no float on the way is
  // subnormal, so the value is right where the processor flushes those to zero as well.
  const uint32_t shift = magnitude < 0x0400u ? 113 : magnitude < 0x7c00u ? 112 : 224;
  uint32_t bits = (magnitude << 13) + (shift << 23);
  if (magnitude < 0x0400u) bits = bits_of_float(float_of_bits(bits) - 0x1p-14f);
  return float_of_bits(bits | (uint32_t{x.bits} & 0x8000u) << 16);
}

// Round to nearest, ties to even; a NaN stays a NaN.
static inline void from_float(float x, float& out) { out = x; }

static inline void from_float(float x, BFloat16& out) {
  const uint32_t bits = bits_of_float(x);
  out.bits = x != x ? 0x7fc0u : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline void from_float(float x, Float16& out) {
  const uint32_t bits = bits_of_float(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half = 0;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x47800000u) {  // 2^16 and above, infinity
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
    half = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  out.bits = static_cast<uint16_t>(half | (bits >> 16 & 0x8000u));
}

// x as it is when it was stored in `dtype`.
static inline float rounded(float x, DType dtype) {
  BFloat16 brain;
  Float16 small;
  switch (dtype) {
    case DType::kBFloat16:
      from_float(x, brain);
      return to_float(brain);
    case DType::kFloat16:
      from_float(x, small);
      return to_float(small);
    case DType::kFloat32:
      break;
  }
  return x;
}

}  // namespace dpad::half
