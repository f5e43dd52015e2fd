// Eight float32 lanes: AVX2 with FMA and F16C. The functions are described in vec_portable.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "core/half.h"

#define DPAD_ISA(name) name##_avx2

namespace dpad::cpu {

using half::BFloat16;
using half::bits_of_float;
using half::Float16;
using half::from_float;
using half::to_float;

namespace {

constexpr int64_t kWidth = 8;
constexpr int64_t kBlock = 6;

using F = __m256;

struct D {
  __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
};

inline F set1(float x) { return _mm256_set1_ps(x); }

inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline F load(const BFloat16* p) {
  const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
inline F load(const Float16* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
template <typename T>
inline void load2(const T* p, F& a, F& b) {
  a = load(p);
  b = load(p + kWidth);
}
inline void load2(const BFloat16* p, F& a, F& b) {  // even values, odd values
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  a = _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
  b = _mm256_castsi256_ps(_mm256_and_si256(h, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
inline void store(BFloat16* p, F x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i half =
      _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), _mm256_set1_epi32(0x7fc0), nan);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(half, half), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
inline void store(Float16* p, F x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F where_less(F a, F b, F yes, F no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
inline bool any_greater(F a, F b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
}
inline F low_bits_to_exponent(F x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 23));
}
inline F add_exponent(F p, F x) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(x), 23)));
}

inline void transpose(F (&x)[kWidth]) {
  F a[kWidth], b[kWidth];
#pragma GCC unroll 4
  for (int64_t i = 0; i < kWidth; i += 2) {  // 2 x 2 elements, in every 128 bits
    a[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 2
  for (int64_t i = 0; i < kWidth; i += 4) {  // 4 x 4
#pragma GCC unroll 2
    for (int64_t j = 0; j < 2; ++j) {
      const __m256d low = _mm256_castps_pd(a[i + j]), high = _mm256_castps_pd(a[i + j + 2]);
      b[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
      b[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
    }
  }
#pragma GCC unroll 4
  for (int64_t j = 0; j < 4; ++j) {
    x[j] = _mm256_permute2f128_ps(b[j], b[j + 4], 0x20);
    x[j + 4] = _mm256_permute2f128_ps(b[j], b[j + 4], 0x31);
  }
}

// Half as many lanes, for few rows.
using Half = __m128;
inline void read(F& x, const float* p) { x = load(p); }
inline void fill(F& x, float value) { x = set1(value); }
inline void read(Half& x, const float* p) { x = _mm_loadu_ps(p); }
inline void fill(Half& x, float value) { x = _mm_set1_ps(value); }
inline void store(float* p, Half x) { _mm_storeu_ps(p, x); }
inline Half fma(Half a, Half b, Half c) { return _mm_fmadd_ps(a, b, c); }

inline __m256d low_half(F x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
inline __m256d high_half(F x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }
inline void accumulate(D& d, F x) {
  d.low = _mm256_add_pd(d.low, low_half(x));
  d.high = _mm256_add_pd(d.high, high_half(x));
}
inline void accumulate_square(D& d, F x) {
  d.low = _mm256_fmadd_pd(low_half(x), low_half(x), d.low);
  d.high = _mm256_fmadd_pd(high_half(x), high_half(x), d.high);
}
inline double total(const D& d) {
  const __m256d sum = _mm256_add_pd(d.low, d.high);
  const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(sum), _mm256_extractf128_pd(sum, 1));
  return _mm_cvtsd_f64(pair) + _mm_cvtsd_f64(_mm_unpackhi_pd(pair, pair));
}

using U = __m256i;
inline U set1(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
inline U count_from(uint32_t first) {
  return _mm256_add_epi32(set1(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline void store(uint32_t* p, U x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
inline void multiply(U a, U b, U& high, U& low) {
  const U even = _mm256_mul_epu32(a, b);
  const U odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
  high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
}

}  // namespace
}  // namespace dpad::cpu
