// Sixteen float32 lanes: AVX-512 F, BW, DQ, VL. The functions are described in vec_portable.h.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 warns about its own _mm512_undefined_ps() wherever an intrinsic is inlined.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif

#include <cstdint>

#include "core/half.h"

#define DPAD_ISA(name) name##_avx512

namespace dpad::cpu {

using half::BFloat16;
using half::bits_of_float;
using half::Float16;
using half::from_float;
using half::to_float;

namespace {

constexpr int64_t kWidth = 16;
constexpr int64_t kBlock = 8;

using F = __m512;

struct D {
  __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
};

inline F set1(float x) { return _mm512_set1_ps(x); }

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline F load(const BFloat16* p) {
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
inline F load(const Float16* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
template <typename T>
inline void load2(const T* p, F& a, F& b) {
  a = load(p);
  b = load(p + kWidth);
}
inline void load2(const BFloat16* p, F& a, F& b) {  // even values, odd values
  const __m512i h = _mm512_loadu_si512(p);
  a = _mm512_castsi512_ps(_mm512_slli_epi32(h, 16));
  b = _mm512_castsi512_ps(_mm512_and_si512(h, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline void store(BFloat16* p, F x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i half =
      _mm512_mask_mov_epi32(_mm512_srli_epi32(sum, 16), nan, _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(half));
}
inline void store(Float16* p, F x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F where_less(F a, F b, F yes, F no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
inline bool any_greater(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
inline F low_bits_to_exponent(F x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 23));
}
inline F add_exponent(F p, F x) {
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(x), 23)));
}

inline void transpose(F (&x)[kWidth]) {
  F a[kWidth], b[kWidth];
#pragma GCC unroll 8
  for (int64_t i = 0; i < kWidth; i += 2) {  // 2 x 2 elements, in every 128 bits
    a[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 4
  for (int64_t i = 0; i < kWidth; i += 4) {  // 4 x 4
#pragma GCC unroll 2
    for (int64_t j = 0; j < 2; ++j) {
      const __m512d low = _mm512_castps_pd(a[i + j]), high = _mm512_castps_pd(a[i + j + 2]);
      b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  }
#pragma GCC unroll 2
  for (int64_t i = 0; i < kWidth; i += 8) {  // 8 x 8
#pragma GCC unroll 4
    for (int64_t j = i; j < i + 4; ++j) {
      a[j] = _mm512_shuffle_f32x4(b[j], b[j + 4], 0x88);
      a[j + 4] = _mm512_shuffle_f32x4(b[j], b[j + 4], 0xdd);
    }
  }
#pragma GCC unroll 8
  for (int64_t j = 0; j < 8; ++j) {
    x[j] = _mm512_shuffle_f32x4(a[j], a[j + 8], 0x88);
    x[j + 8] = _mm512_shuffle_f32x4(a[j], a[j + 8], 0xdd);
  }
}

// Half as many lanes, for few rows.
using Half = __m256;
inline void read(F& x, const float* p) { x = load(p); }
inline void fill(F& x, float value) { x = set1(value); }
inline void read(Half& x, const float* p) { x = _mm256_loadu_ps(p); }
inline void fill(Half& x, float value) { x = _mm256_set1_ps(value); }
inline void store(float* p, Half x) { _mm256_storeu_ps(p, x); }
inline Half fma(Half a, Half b, Half c) { return _mm256_fmadd_ps(a, b, c); }

inline __m512d low_half(F x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
inline __m512d high_half(F x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }
inline void accumulate(D& d, F x) {
  d.low = _mm512_add_pd(d.low, low_half(x));
  d.high = _mm512_add_pd(d.high, high_half(x));
}
inline void accumulate_square(D& d, F x) {
  d.low = _mm512_fmadd_pd(low_half(x), low_half(x), d.low);
  d.high = _mm512_fmadd_pd(high_half(x), high_half(x), d.high);
}
inline double total(const D& d) { return _mm512_reduce_add_pd(_mm512_add_pd(d.low, d.high)); }

using U = __m512i;
inline U set1(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
inline U count_from(uint32_t first) {
  return _mm512_add_epi32(set1(first),
                          _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
inline void store(uint32_t* p, U x) { _mm512_storeu_si512(p, x); }
inline void multiply(U a, U b, U& high, U& low) {
  const U even = _mm512_mul_epu32(a, b);
  const U odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
  high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
  low = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
}

}  // namespace
}  // namespace dpad::cpu
