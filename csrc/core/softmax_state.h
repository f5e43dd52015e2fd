// Soft-max statistics of a row of logits in one pass and in any number of pieces: p = 1 / (1 + s)
// in float64 keeps the order of very confident rows, which a float32 p (exactly 1 where
// 1 - p < 6e-8) would lose. Host and device code share this header.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/philox.h"

namespace dpad {

// State of some ids of a row. With d = (x - peak) / ln 2, over all of them but the peak:
template <class Real>
struct SoftmaxState {
  float peak;    // largest value, minus infinity if there is none
  int64_t id;    // the lowest id with this value; -1 if every value is -inf or NaN
  float second;  // largest value but for the peak
  Real s;        // sum of 2^d; a NaN among the values makes s or t a NaN
  Real t;        // sum of d 2^d
};

namespace softmax {

constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.69314718055994531;

DPAD_HOST_DEVICE inline float power_of_two(float x) { return exp2f(x); }
DPAD_HOST_DEVICE inline double power_of_two(double x) { return exp2(x); }

template <class Real>
DPAD_HOST_DEVICE inline SoftmaxState<Real> empty() {
  return {-INFINITY, -1, -INFINITY, 0, 0};
}

// Makes (id, x) the state's peak, x being larger: s, t and second move over to it, and the old peak
// is one of the others from now on.
template <class Real>
DPAD_HOST_DEVICE inline void move_peak(SoftmaxState<Real>& state, int64_t id, float x) {
  if (state.id >= 0) {
    const Real shift = (Real{state.peak} - x) * static_cast<Real>(kLog2E);
    const Real scale = power_of_two(shift), all = state.s + 1;
    if (scale > 0) state.t = scale * (state.t + shift * all);
    state.s = scale * all;
    state.second = state.peak;
  }
  state.peak = x;
  state.id = id;
}

// Adds one id to the state.
template <class Real>
DPAD_HOST_DEVICE inline void include(SoftmaxState<Real>& state, int64_t id, float x) {
  if (x > state.peak) return move_peak(state, id, x);
  if (x > state.second) state.second = x;
  if (x == state.peak && state.id >= 0 && id < state.id) state.id = id;
  if (x == INFINITY || x == -INFINITY) return;
  const Real d = (Real{x} - state.peak) * static_cast<Real>(kLog2E);
  state.s += power_of_two(d);
  state.t += d * power_of_two(d);
}

template <class Real>
DPAD_HOST_DEVICE inline SoftmaxState<double> widened(const SoftmaxState<Real>& state) {
  return {state.peak, state.id, state.second, state.s, state.t};
}

// The state of the ids of both. Ties go to the lower id, so the peak does not depend on the order.
DPAD_HOST_DEVICE inline SoftmaxState<double> merged(SoftmaxState<double> a,
                                                    SoftmaxState<double> b) {
  if (a.id < 0 || (b.id >= 0 && (b.peak > a.peak || (b.peak == a.peak && b.id < a.id)))) {
    const SoftmaxState<double> other = a;
    a = b;
    b = other;
  }
  if (b.id < 0) {  // nothing there, or only NaN
    a.s += b.s;
    a.t += b.t;
    return a;
  }
  const double shift = (double{b.peak} - a.peak) * kLog2E;
  const double scale = power_of_two(shift), all = b.s + 1;
  a.s += scale * all;
  if (scale > 0) a.t += scale * (b.t + shift * all);
  if (b.peak > a.second) a.second = b.peak;
  return a;
}

struct Scores {
  double probability, margin, entropy;
};

// The scores of a row whose chosen id has the logit `chosen`; an excluded id has probability 0.
// All are NaN where the soft-max has a NaN or +inf among its logits, or only -inf.
DPAD_HOST_DEVICE inline Scores scores(const SoftmaxState<double>& state, float chosen,
                                      bool excluded) {
  // The peak, +inf or finite where there is one, is never a NaN.
  if (state.id < 0 || state.peak == INFINITY || state.s != state.s || state.t != state.t) {
    return {NAN, NAN, NAN};
  }
  const double all = 1 + state.s, peak = state.peak;
  return {excluded ? 0.0 : exp(chosen - peak) / all, -expm1(state.second - peak) / all,
          log1p(state.s) - kLn2 * state.t / all};
}

}  // namespace softmax
}  // namespace dpad
