// Arithmetic whose bits are the same on every device: products and sums that no compiler contracts
// into one FMA (host code is compiled with -ffp-contract=off), and a logarithm made of them.
#pragma once

#include <cmath>

#include "core/philox.h"

namespace dpad {

DPAD_HOST_DEVICE inline double mul_rn(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

DPAD_HOST_DEVICE inline double add_rn(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}

// The same in float32.
DPAD_HOST_DEVICE inline float mul_rn(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

DPAD_HOST_DEVICE inline float add_rn(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

// log(1 + f) = 2 atanh(s) with s = f / (2 + f), for -0.3 < f < 0.42: eleven terms of the series
// reach 2^-54, and the result keeps its relative precision for tiny f.
DPAD_HOST_DEVICE inline double log_near_one(double f) {
  const double s = f / add_rn(2.0, f), z = mul_rn(s, s);
  double sum = 1.0 / 23.0;
  for (int n = 21; n >= 3; n -= 2) sum = add_rn(mul_rn(sum, z), 1.0 / n);
  const double twice = mul_rn(2.0, s);
  return add_rn(twice, mul_rn(twice, mul_rn(z, sum)));
}

// Natural logarithm of a finite x > 0, to about two units in the last place.
DPAD_HOST_DEVICE inline double log_rn(double x) {
  int exponent = 0;
  double m = frexp(x, &exponent);  // [0.5, 1)
  if (m < 0.70710678118654757) m = mul_rn(2.0, m), --exponent;
  return add_rn(mul_rn(exponent, 0.69314718055994531), log_near_one(add_rn(m, -1.0)));
}

// -log(1 - v) for 0 < v <= 0.5, with full relative precision.
DPAD_HOST_DEVICE inline double minus_log_complement(double v) {
  return v < 0.25 ? -log_near_one(-v) : -log_rn(add_rn(1.0, -v));
}

}  // namespace dpad
