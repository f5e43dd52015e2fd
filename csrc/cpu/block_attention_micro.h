// Inner loops of block_attention, lanes along the rows. The second product stays a function of its
// own, as the first one in row_products.h.
#pragma once

#include "cpu/block_attention_tile.h"
#include "cpu/row_products.h"

namespace dpad::cpu {
namespace {

// Dimensions of V that are widened at a time: whole vectors and whole blocks.
constexpr int64_t kPanel = kBlock % 4 == 0 ? kWidth : 3 * kWidth;
static_assert(kPanel % kWidth == 0 && kPanel % kBlock == 0 && kPanel <= kMaxPanel);
constexpr float kMinusInfinity = -__builtin_inff();

// Running soft-max of one vector of rows.
struct Softmax {
  F top, sum, rescale;
};

// What the next steps will read: fetched while the registers are busy. Never dereferenced.
template <typename T>
struct Prefetch {
  static constexpr int64_t kLine = 64 / sizeof(T);
  const T* k;
  const T* v;
  int64_t k_stride, v_stride;
  void operator()(int64_t i, int64_t d) const {
    __builtin_prefetch(k + i * k_stride + d);
    __builtin_prefetch(v + i * v_stride + d, 0, 2);
  }
};

struct Scale {
  F scale;
  void operator()(float* to, F sum) const { store(to, sum * scale); }
};

// out[c] = out[c] * rescale + sum over keys of v[key][c] * weight[key], for C dimensions and N
// vectors of rows; out is [dim][kLanes], weight [keys][kLanes].
template <int64_t N, int64_t C>
[[gnu::noinline]] void multiply_pv(const float* weight, const float* v, int64_t stride,
                                   int64_t keys, const Softmax* state, float* out) {
  F sum[C][N];
#pragma GCC unroll 16
  for (int64_t c = 0; c < C; ++c) {
#pragma GCC unroll 2
    for (int64_t j = 0; j < N; ++j) sum[c][j] = zero();
  }
  for (int64_t i = 0; i < keys; ++i) {
    F rows[N];
#pragma GCC unroll 2
    for (int64_t j = 0; j < N; ++j) rows[j] = load(weight + i * kLanes + j * kWidth);
#pragma GCC unroll 16
    for (int64_t c = 0; c < C; ++c) {
      const F element = set1(v[i * stride + c]);
#pragma GCC unroll 2
      for (int64_t j = 0; j < N; ++j) sum[c][j] = fma(element, rows[j], sum[c][j]);
    }
  }
#pragma GCC unroll 16
  for (int64_t c = 0; c < C; ++c) {
#pragma GCC unroll 2
    for (int64_t j = 0; j < N; ++j) {
      float* const o = out + c * kLanes + j * kWidth;
      store(o, fma(load(o), state[j].rescale, sum[c][j]));
    }
  }
}

// One step of the online soft-max: the scores of a vector of rows become weights exp(score -
// running maximum). Where `seen` is given, a row looks only at that many of the step's keys, the
// first ones.
inline void online_softmax(float* scores, int64_t keys, const F* seen, Softmax& state) {
  F top = state.top;
  for (int64_t i = 0; i < keys; ++i) {
    F x = load(scores + i * kLanes);
    if (seen != nullptr) {
      x = where_less(set1(static_cast<float>(i)), *seen, x, set1(kMinusInfinity));
      store(scores + i * kLanes, x);
    }
    top = max(top, x);
  }
  // A row that has not seen a key yet has weights exp(-inf - 0) = 0.
  const F base = where_less(set1(kMinusInfinity), top, top, zero());
  F sum = zero();
  for (int64_t i = 0; i < keys; ++i) {
    const F weight = exp_nonpositive(load(scores + i * kLanes) - base);
    store(scores + i * kLanes, weight);
    sum = sum + weight;
  }
  state.rescale = exp_nonpositive(state.top - base);
  state.sum = fma(state.sum, state.rescale, sum);
  state.top = top;
}

}  // namespace
}  // namespace dpad::cpu
