// Register-blocked inner loops of block_attention, lanes along the rows. The two products stay
// functions of their own: inlined, their row pointers no longer fit into registers.
#pragma once

#include "cpu/block_attention_tile.h"
#include "cpu/vec_math.h"

namespace dpad::cpu {
namespace {

constexpr int64_t kLanes = 2 * kWidth;  // rows of a sub-tile
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
struct Ahead {
  const T* k;
  const T* v;
  int64_t k_stride, v_stride;
};

// scores[i] = scale * key i . row, for kBlock keys (key i at k + i * stride) and N vectors of rows;
// q is [dim][kLanes]. Key `last` is the last real one and stands in for the missing ones.
template <int64_t N, typename T>
[[gnu::noinline]] void score(const float* q, const float* k, int64_t stride, int64_t last,
                             int64_t dim, F scale, const Ahead<T>& ahead, float* scores) {
  constexpr int64_t kLine = 64 / sizeof(T);
  const float* key[kBlock];
  F sum[kBlock][N];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kBlock; ++i) {
    key[i] = k + (i < last ? i : last) * stride;
#pragma GCC unroll 2
    for (int64_t j = 0; j < N; ++j) sum[i][j] = zero();
  }
  for (int64_t line = 0; line < dim; line += kLine) {
    for (int64_t i = 0; i < kBlock; ++i) {
      __builtin_prefetch(ahead.k + i * ahead.k_stride + line);
      __builtin_prefetch(ahead.v + i * ahead.v_stride + line, 0, 2);
    }
    const int64_t end = line + kLine < dim ? line + kLine : dim;
    for (int64_t d = line; d < end; ++d) {
      F rows[N];
#pragma GCC unroll 2
      for (int64_t j = 0; j < N; ++j) rows[j] = load(q + d * kLanes + j * kWidth);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kBlock; ++i) {
        const F element = set1(key[i][d]);
#pragma GCC unroll 2
        for (int64_t j = 0; j < N; ++j) sum[i][j] = fma(element, rows[j], sum[i][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < kBlock; ++i) {
#pragma GCC unroll 2
    for (int64_t j = 0; j < N; ++j) store(scores + i * kLanes + j * kWidth, sum[i][j] * scale);
  }
}

// out[c] = out[c] * rescale + sum over keys of v[key][c] * weight[key], for C dimensions and N
// vectors of rows; out is [dim][kLanes], weight [keys][kLanes].
template <int64_t N, int64_t C>
[[gnu::noinline]] void blend(const float* weight, const float* v, int64_t stride, int64_t keys,
                             const Softmax* state, float* out) {
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

// The scores of one vector of rows become weights exp(score - running maximum). Where `limit` is
// given, only keys whose slot (in `slots`) is below it count.
inline void soften(float* scores, int64_t keys, const float* slots, const F* limit,
                   Softmax& state) {
  F top = state.top;
  for (int64_t i = 0; i < keys; ++i) {
    F x = load(scores + i * kLanes);
    if (limit != nullptr) {
      x = where_less(set1(slots[i]), *limit, x, set1(kMinusInfinity));
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

// 16-bit elements as float32.
template <typename T>
inline void widen(const T* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(to + i, load(from + i));
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

}  // namespace
}  // namespace dpad::cpu
