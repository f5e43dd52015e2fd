// One row of logits in blocks of kChunk values. A block that holds an id to leave out, or is short,
// is first copied with minus infinity in those places, so every loop runs over whole vectors.
#pragma once

#include "cpu/confidence_scan.h"
#include "cpu/vec_math.h"

namespace dpad::cpu {
namespace {

constexpr int64_t kChunk = 1024;
constexpr int64_t kStep = 64;  // divides kChunk; a multiple of 4 vectors and of 2 * kPairs
constexpr float kMinusInfinity = -__builtin_inff();

// `count` values as float32, then minus infinity up to a multiple of kStep, which is returned.
template <typename V>
inline int64_t copy_block(const V* values, int64_t count, float* copy) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(copy + i, load(values + i));
  if (i < count) store(copy + i, load_part(values + i, count - i));
  const int64_t padded = (count + kStep - 1) / kStep * kStep;
  for (i = count; i < padded; ++i) copy[i] = kMinusInfinity;
  return padded;
}

// Calls body(first id, values, count) for every block; count is a multiple of kStep.
template <typename T, typename Body>
inline void for_blocks(const LogitRow& row, Body body) {
  const T* data = static_cast<const T*>(row.data);
  int64_t next = 0;
  for (int64_t start = 0; start < row.vocab; start += kChunk) {
    const int64_t left = row.vocab - start, end = start + kChunk;
    if (left >= kChunk && (next == row.skip_count || row.skip[next] >= end)) {
      body(start, data + start, kChunk);
      continue;
    }
    alignas(64) float copy[kChunk + kWidth];  // copy_block writes whole vectors
    const int64_t count = copy_block(data + start, left < kChunk ? left : kChunk, copy);
    for (; next < row.skip_count && row.skip[next] < end; ++next) {
      copy[row.skip[next] - start] = kMinusInfinity;
    }
    body(start, static_cast<const float*>(copy), count);
  }
}

// The larger of each lane; a NaN in `x` is passed over.
inline F larger(F x, F best) { return max(x, best); }

template <typename V>
inline F block_max(const V* values, int64_t count) {
  F a = set1(kMinusInfinity), b = a, c = a, d = a;
  for (int64_t i = 0; i < count; i += 4 * kWidth) {
    F x, y, z, w;
    load2(values + i, x, y);
    load2(values + i + 2 * kWidth, z, w);
    a = larger(x, a);
    b = larger(y, b);
    c = larger(z, c);
    d = larger(w, d);
  }
  return larger(larger(a, b), larger(c, d));
}

// Where the largest of the values lies first. They are loaded as block_max loads them: where the
// processor flushes subnormals, another conversion could give another number.
template <typename V>
inline int64_t peak_place(const V* values, int64_t count, float peak) {
  for (int64_t i = 0; i < count; i += kWidth) {
    float part[kWidth];
    store(part, load(values + i));
    for (int64_t j = 0; j < kWidth; ++j) {
      if (part[j] >= peak) return i + j;
    }
  }
  return 0;  // peak is one of the values
}

// Sums over the values seen since the last move of the peak: short float32 sums, long float64 ones.
struct ExpSums {
  D s, t;
  F second = set1(kMinusInfinity);

  template <typename V>
  void add(const V* values, int64_t count, float peak) {
    const F shift = set1(peak), least = set1(kExp2Zero), scale = set1(kLog2E);
    F s0 = zero(), s1 = zero(), t0 = zero(), t1 = zero();
    for (int64_t i = 0; i < count; i += 2 * kWidth) {
      F x, y;
      load2(values + i, x, y);
      second = larger(y, larger(x, second));
      x = max(least, (x - shift) * scale);
      y = max(least, (y - shift) * scale);
      const F ex = exp2_clamped(x), ey = exp2_clamped(y);
      s0 = s0 + ex;
      s1 = s1 + ey;
      t0 = fma(x, ex, t0);
      t1 = fma(y, ey, t1);
    }
    accumulate(s, s0);
    accumulate(s, s1);
    accumulate(t, t0);
    accumulate(t, t1);
  }

  void move_into(RowState& state) {
    state.s += total(s);
    state.t += total(t);
    s = t = D{};
  }
};

template <typename T>
RowState scan_row_of(const LogitRow& row) {
  RowState state{kMinusInfinity, -1, kMinusInfinity, 0.0, 0.0};
  ExpSums sums;
  for_blocks<T>(row, [&](int64_t start, const auto* values, int64_t count) {
    const F top = block_max(values, count);
    if (!any_greater(top, set1(state.peak))) {
      // Without a peak so far everything is minus infinity or NaN.
      sums.add(values, count, state.id < 0 ? 0.0f : state.peak);
      return;
    }
    const float peak = largest(top);
    const int64_t i = peak_place(values, count, peak);
    sums.move_into(state);
    move_peak(state, start + i, peak);
    alignas(64) float copy[kChunk + kWidth];  // copy_block writes whole vectors
    copy_block(values, count, copy);
    copy[i] = kMinusInfinity;
    sums.add(copy, count, peak);
  });
  sums.move_into(state);
  const float second = largest(sums.second);
  if (second > state.second) state.second = second;
  return state;
}

constexpr int64_t kPairs = 16;  // counters at a time, two ids each

// The high words of the draws of the ids 2 * pair .. 2 * (pair + kPairs) - 1: philox(), kWidth
// counters side by side.
inline void high_words(const NoiseScan& scan, int64_t pair, uint32_t* words) {
  const U by_0 = set1(uint32_t{0xD2511F53u}), by_2 = set1(uint32_t{0xCD9E8D57u});
  for (int64_t i = 0; i < kPairs; i += kWidth) {
    PhiloxKey key = scan.key;
    U c0 = count_from(static_cast<uint32_t>(pair + i)), c1 = set1(scan.counter.word[1]);
    U c2 = set1(scan.counter.word[2]), c3 = set1(scan.counter.word[3]);
    for (int round = 0; round < 10; ++round) {
      U high_0, low_0, high_2, low_2;
      multiply(c0, by_0, high_0, low_0);
      multiply(c2, by_2, high_2, low_2);
      c0 = high_2 ^ c1 ^ set1(key.word[0]);
      c1 = low_2;
      c2 = high_0 ^ c3 ^ set1(key.word[1]);
      c3 = low_0;
      key.word[0] += 0x9E3779B9u;
      key.word[1] += 0xBB67AE85u;
    }
    uint32_t even[kWidth], odd[kWidth];
    store(even, c0);
    store(odd, c2);
    for (int64_t j = 0; j < kWidth; ++j) {
      words[2 * (i + j)] = even[j];
      words[2 * (i + j) + 1] = odd[j];
    }
  }
}

// A float below every score that can still win: `best` less the rounding errors of the bounds.
inline float bar_of(const NoiseScan& scan) {
  const double size = (scan.best < 0 ? -scan.best : scan.best) + 220.0 * scan.temperature;
  return static_cast<float>(scan.best - 1e-6 * size);
}

// Temperatures above it take bounds out of float32's range: no candidate is passed over then.
constexpr double kMostBounded = 0x1p100;

// Only candidates whose upper bound reaches the best score so far pay for an exact logarithm.
template <typename T>
void scan_noise_of(const LogitRow& row, NoiseScan& scan) {
  const bool bounded = scan.temperature <= kMostBounded;
  const float temperature = bounded ? static_cast<float>(scan.temperature) : 0.0f;
  const float most = temperature * 45.1f;                 // kGumbelMax
  float bar = bounded ? bar_of(scan) : -0x1.fffffep127f;  // below no logit but minus infinity
  for_blocks<T>(row, [&](int64_t start, const auto* values, int64_t count) {
    constexpr int64_t kIds = 2 * kPairs;
    for (int64_t i = 0; i < count; i += kIds) {
      float x[kIds];
      F top = set1(kMinusInfinity);
      for (int64_t j = 0; j < kIds; j += kWidth) {
        const F v = load(values + i + j);
        store(x + j, v);
        top = larger(v, top);
      }
      if (!any_greater(top, set1(bounded ? bar - most : kMinusInfinity))) continue;
      uint32_t words[kIds];
      high_words(scan, (start + i) / 2, words);
      float bound[kIds];
      for (int64_t j = 0; j < kIds; ++j) {  // gumbel_bound()
        const float half = static_cast<float>(static_cast<int32_t>(words[j] >> 1));
        const int32_t exponent = static_cast<int32_t>(bits_of_float(half) >> 23);
        bound[j] = x[j] + temperature * (static_cast<float>(158 - exponent) * 0.693147182f + 1e-3f);
      }
      for (int64_t j = 0; j < kIds; ++j) {
        if (!(bound[j] >= bar)) continue;
        consider(scan, start + i + j, x[j]);
        if (bounded) bar = bar_of(scan);
      }
    }
  });
}

}  // namespace

RowState DPAD_ISA(scan_row)(const LogitRow& row) {
  RowState state;
  with_type(row.dtype, [&]<typename T>() { state = scan_row_of<T>(row); });
  return state;
}

void DPAD_ISA(scan_noise)(const LogitRow& row, NoiseScan& scan) {
  with_type(row.dtype, [&]<typename T>() { scan_noise_of<T>(row, scan); });
}

}  // namespace dpad::cpu
