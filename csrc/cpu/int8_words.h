// Sums of 8-bit products over the 32-bit words of one instruction set; include after vec_<isa>.h.
//
// A word holds kGroup elements of one row. With VNNI these are bytes, and the weight's are unsigned
// (kOffset more than they are); elsewhere they are pairs of 16 bits, whose products fit as well.
// All sums are exact.
#pragma once

#include <cstdint>

namespace dpad::cpu {
namespace {

using Word [[gnu::may_alias]] = int32_t;

#if defined(__AVX512VNNI__)
using Element = int8_t;
constexpr int64_t kGroup = 4;
constexpr int32_t kOffset = 128;
#else
using Element = int16_t;
constexpr int64_t kGroup = 2;
constexpr int32_t kOffset = 0;
#endif

#if defined(__AVX512F__)
using Words = __m512i;
using HalfWords = __m256i;
inline void fill(Words& x, int32_t value) { x = _mm512_set1_epi32(value); }
inline void fill(HalfWords& x, int32_t value) { x = _mm256_set1_epi32(value); }
inline void read(Words& x, const Word* p) { x = _mm512_loadu_si512(p); }
inline void store(Word* p, Words x) { _mm512_storeu_si512(p, x); }
inline Words add(Words a, Words b) { return _mm512_add_epi32(a, b); }
inline HalfWords add(HalfWords a, HalfWords b) { return _mm256_add_epi32(a, b); }
inline F as_float(Words x) { return _mm512_cvtepi32_ps(x); }
#elif defined(__AVX2__)
using Words = __m256i;
using HalfWords = __m128i;
inline void fill(Words& x, int32_t value) { x = _mm256_set1_epi32(value); }
inline void fill(HalfWords& x, int32_t value) { x = _mm_set1_epi32(value); }
inline void read(HalfWords& x, const Word* p) {
  x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline void store(Word* p, HalfWords x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x); }
inline Words add(Words a, Words b) { return _mm256_add_epi32(a, b); }
inline HalfWords add(HalfWords a, HalfWords b) { return _mm_add_epi32(a, b); }
inline F as_float(Words x) { return _mm256_cvtepi32_ps(x); }
#endif
#if defined(__AVX2__)  // 256 bits: half of AVX-512's lanes
inline void read(__m256i& x, const Word* p) {
  x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline void store(Word* p, __m256i x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
#endif

// sum + the products of each word's elements.
#if defined(__AVX512VNNI__)
inline Words fma(Words weight, Words x, Words sum) { return _mm512_dpbusd_epi32(sum, weight, x); }
inline HalfWords fma(HalfWords weight, HalfWords x, HalfWords sum) {
  return _mm256_dpbusd_epi32(sum, weight, x);
}
#elif defined(__AVX512F__)
inline Words fma(Words weight, Words x, Words sum) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(weight, x));
}
inline HalfWords fma(HalfWords weight, HalfWords x, HalfWords sum) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(weight, x));
}
#elif defined(__AVX2__)
inline Words fma(Words weight, Words x, Words sum) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(weight, x));
}
inline HalfWords fma(HalfWords weight, HalfWords x, HalfWords sum) {
  return _mm_add_epi32(sum, _mm_madd_epi16(weight, x));
}
#else
typedef int32_t Words __attribute__((vector_size(16)));
typedef int32_t HalfWords __attribute__((vector_size(8)));
inline void fill(Words& x, int32_t value) { x = Words{value, value, value, value}; }
inline void fill(HalfWords& x, int32_t value) { x = HalfWords{value, value}; }
inline void read(Words& x, const Word* p) { __builtin_memcpy(&x, p, sizeof x); }
inline void read(HalfWords& x, const Word* p) { __builtin_memcpy(&x, p, sizeof x); }
inline void store(Word* p, Words x) { __builtin_memcpy(p, &x, sizeof x); }
inline void store(Word* p, HalfWords x) { __builtin_memcpy(p, &x, sizeof x); }
inline Words add(Words a, Words b) { return a + b; }
inline HalfWords add(HalfWords a, HalfWords b) { return a + b; }
inline F as_float(Words x) { return __builtin_convertvector(x, F); }
template <typename V>
inline V fma(V weight, V x, V sum) {
  return sum + (weight << 16 >> 16) * (x << 16 >> 16) + (weight >> 16) * (x >> 16);
}
#endif

// The weight's elements as fma() takes them.
inline void widen_weight(const int8_t* from, int64_t count, Word* words) {
#if defined(__AVX512VNNI__)
  auto* const to = reinterpret_cast<uint8_t*>(words);
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(from[i]) ^ uint8_t { kOffset };
  for (int64_t i = count; i % kGroup != 0; ++i) to[i] = 0;
#else
  for (int64_t i = 0; i < count / 2; ++i) {
    words[i] = (from[2 * i] & 0xffff) | static_cast<int32_t>(uint32_t(from[2 * i + 1]) << 16);
  }
  if (count % 2 != 0) words[count / 2] = from[count - 1] & 0xffff;
#endif
}

}  // namespace
}  // namespace dpad::cpu
