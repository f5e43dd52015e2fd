// Element types of the CUDA kernels and the arithmetic whose rounding is part of the contract.
//
// Everything here and in the other .cuh files runs on the host as well, so that the bodies of the
// kernels are tested without a GPU by looping over their threads.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/exact.h"
#include "core/half.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace dpad::cuda {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

// N elements that are loaded and stored at once, by read_pack() and write_pack().
template <class T, int N>
struct Pack {
  static constexpr int kBytes = sizeof(T) * N;
  static constexpr int kWord = kBytes < 16 ? kBytes : 16;  // bytes that one access moves
  T at[N];
};

// Elements of T in the 16 bytes that one thread loads at once.
template <class T>
inline constexpr int kWide = 16 / static_cast<int>(sizeof(T));

DPAD_HOST_DEVICE inline float to_float(float x) { return x; }

DPAD_HOST_DEVICE inline float to_float(BFloat16 x) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
#else
  return half::to_float(half::BFloat16{x.bits});
#endif
}

DPAD_HOST_DEVICE inline float to_float(Float16 x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  return half::to_float(half::Float16{x.bits});
#endif
}

// from_float<T>(x): x rounded to T, to nearest with ties to even.
template <class T>
DPAD_HOST_DEVICE inline T from_float(float x);

template <>
DPAD_HOST_DEVICE inline float from_float<float>(float x) {
  return x;
}

template <>
DPAD_HOST_DEVICE inline BFloat16 from_float<BFloat16>(float x) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  half::BFloat16 result;
  half::from_float(x, result);
  return {result.bits};
#endif
}

template <>
DPAD_HOST_DEVICE inline Float16 from_float<Float16>(float x) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(x))};
#else
  half::Float16 result;
  half::from_float(x, result);
  return {result.bits};
#endif
}

template <class T>
DPAD_HOST_DEVICE inline float rounded(float x) {
  return to_float(from_float<T>(x));
}

// a and b rounded to T, a in the low half of the word.
template <class T>
DPAD_HOST_DEVICE inline uint32_t pair_of(float a, float b) {
  return from_float<T>(a).bits | static_cast<uint32_t>(from_float<T>(b).bits) << 16;
}

}  // namespace dpad::cuda
