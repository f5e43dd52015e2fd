// Products with the lanes along the rows, shared by the kernels: the way of rows into lanes, the
// register-blocked inner loop, and the way back. Include after vec_<isa>.h.
#pragma once

#include "cpu/vec_math.h"

namespace dpad::cpu {
namespace {

constexpr int64_t kLanes = 2 * kWidth;  // rows of a sub-tile

// Up to kWidth rows of `dim` elements as float32 lanes: lane r of to[d * kLanes] is row(r)[d];
// lanes from `rows` on are zero.
template <typename Row>
inline void pack_rows(const Row& row, int64_t rows, int64_t dim, float* to) {
  for (int64_t d = 0; d < dim; d += kWidth) {
    const int64_t left = dim - d;
    F lanes[kWidth];
    for (int64_t r = 0; r < kWidth; ++r) {
      lanes[r] = r >= rows       ? zero()
                 : left < kWidth ? load_part(row(r) + d, left)
                                 : load(row(r) + d);
    }
    transpose(lanes);
    const int64_t count = left < kWidth ? left : kWidth;
    for (int64_t i = 0; i < count; ++i) store(to + (d + i) * kLanes, lanes[i]);
  }
}

// The way back: use(r, d, elements d .. d + count - 1 of row r, count) for `rows` <= kWidth lanes
// of from[dim * kLanes].
template <typename Use>
inline void unpack_rows(const float* from, int64_t rows, int64_t dim, const Use& use) {
  for (int64_t d = 0; d < dim; d += kWidth) {
    const int64_t count = dim - d < kWidth ? dim - d : kWidth;
    F lanes[kWidth];
    for (int64_t i = 0; i < kWidth; ++i) {
      lanes[i] = i < count ? load(from + (d + i) * kLanes) : zero();
    }
    transpose(lanes);
    for (int64_t r = 0; r < rows; ++r) use(r, d, lanes[r], count);
  }
}

// 16-bit elements as float32.
template <typename T>
inline void widen(const T* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(to + i, load(from + i));
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

// finish(to + i * kLanes + lanes of j, sum) for the products of kBlock vectors (vector i at
// k + i * stride) with N vectors V of rows; q is [dim][kLanes]. Vector `last` is the last real one
// and stands in for the missing ones. prefetch(i, d) is called once per cache line of vector i.
// A function of its own: inlined, its pointers no longer fit into registers.
template <typename V, int64_t N, typename E, typename Prefetch, typename Finish>
[[gnu::noinline]] void multiply_rows(const E* q, const E* k, int64_t stride, int64_t last,
                                     int64_t dim, const Prefetch& prefetch, const Finish& finish,
                                     E* to) {
  constexpr int64_t kLanesOfV = sizeof(V) / sizeof(E);
  const E* key[kBlock];
  V sum[kBlock][N];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kBlock; ++i) {
    key[i] = k + (i < last ? i : last) * stride;
#pragma GCC unroll 2
    for (int64_t j = 0; j < N; ++j) fill(sum[i][j], E{0});
  }
  for (int64_t line = 0; line < dim; line += Prefetch::kLine) {
    for (int64_t i = 0; i < kBlock; ++i) prefetch(i, line);
    const int64_t end = line + Prefetch::kLine < dim ? line + Prefetch::kLine : dim;
    for (int64_t d = line; d < end; ++d) {
      V rows[N];
#pragma GCC unroll 2
      for (int64_t j = 0; j < N; ++j) read(rows[j], q + d * kLanes + j * kLanesOfV);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kBlock; ++i) {
        V element;
        fill(element, key[i][d]);
#pragma GCC unroll 2
        for (int64_t j = 0; j < N; ++j) sum[i][j] = fma(element, rows[j], sum[i][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < kBlock; ++i) {
#pragma GCC unroll 2
    for (int64_t j = 0; j < N; ++j) finish(to + i * kLanes + j * kLanesOfV, sum[i][j]);
  }
}

}  // namespace
}  // namespace dpad::cpu
