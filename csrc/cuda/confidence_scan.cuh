// What the threads of a block find out about a chunk of a row's ids, and how two findings merge.
#pragma once

#include "core/softmax_state.h"
#include "cuda/block.cuh"
#include "cuda/confidence_noise.cuh"
#include "cuda/rows.cuh"

namespace dpad::cuda {

inline constexpr int kChunk = 8192;

// What some ids of a row come to.
struct Found {
  SoftmaxState<double> soft = softmax::empty<double>();  // of those that are not excluded
  Best<float> greedy;                                    // of those that are not suppressed
  Best<double> sampled;                                  // likewise, with noise

  DPAD_DEVICE void add(const Found& other) {
    soft = softmax::merged(soft, other.soft);
    greedy.consider(other.greedy.value, other.greedy.id);
    sampled.consider(other.sampled.value, other.sampled.id);
  }
};
constexpr int kFoundWords = sizeof(Found) / sizeof(unsigned long long);
static_assert(sizeof(Found) == kFoundWords * sizeof(unsigned long long));

DPAD_DEVICE Found warp_xor(const Found& x, int lanes) {
  Found out;
  out.soft = {warp_xor(x.soft.peak, lanes), warp_xor(x.soft.id, lanes),
              warp_xor(x.soft.second, lanes), warp_xor(x.soft.s, lanes), warp_xor(x.soft.t, lanes)};
  out.greedy.value = warp_xor(x.greedy.value, lanes), out.greedy.id = warp_xor(x.greedy.id, lanes);
  out.sampled.value = warp_xor(x.sampled.value, lanes);
  out.sampled.id = warp_xor(x.sampled.id, lanes);
  return out;
}

DPAD_DEVICE Found warp_merge(const Found& x, int lanes = 16) {
  const auto add = [](Found a, const Found& b) {
    a.add(b);
    return a;
  };
  return warp_reduce(x, add, lanes);
}

// Over the block; valid in warp 0.
DPAD_DEVICE Found block_merge(Found x) {
  constexpr int kWarps = kThreads / 32;
  DPAD_SHARED unsigned long long of_warp[kWarps][kFoundWords];
  x = warp_merge(x);
  const int lane = thread_index() % 32, warp = thread_index() / 32;
  if (lane == 0) memcpy(of_warp[warp], &x, sizeof x);
  block_sync();
  if (warp > 0) return x;
  memcpy(&x, of_warp[lane % kWarps], sizeof x);
  return warp_merge(x, kWarps / 2);
}

// One bit per id of a chunk.
class IdSet {
 public:
  DPAD_DEVICE explicit IdSet(unsigned* words) : words_(words) {}

  DPAD_DEVICE void clear() const {
    for (int i = thread_index(); i < kChunk / 32; i += kThreads) words_[i] = 0;
  }
  DPAD_DEVICE void add(const int64_t* ids, int64_t count, int64_t first) const {
    for (int64_t i = thread_index(); i < count; i += kThreads) {
      const int64_t at = ids[i] - first;
      if (inside(at, kChunk)) atomic_or(&words_[at / 32], 1u << (at % 32));
    }
  }
  // The bits from `at` on.
  DPAD_DEVICE unsigned from(int at) const { return words_[at / 32] >> (at % 32); }

 private:
  unsigned* words_;
};

// This thread's part of a chunk: SoftmaxState in float32 over at most kChunk / kThreads ids.
class ChunkScan {
 public:
  DPAD_DEVICE ChunkScan(const IdSet& suppress, const IdSet& exclude, const Noise& noise,
                        int64_t first)
      : suppress_(suppress), exclude_(exclude), noise_(noise), first_(first) {}

  // `count` <= N ids from `at` of the chunk on, possibly none; `at` is even where N is. The whole
  // warp comes here.
  template <int N>
  DPAD_DEVICE void take(const float (&x)[N], int at, int count) {
    const unsigned suppressed = count > 0 ? suppress_.from(at) : 0;
    const unsigned excluded = count > 0 ? exclude_.from(at) : 0;
    DPAD_UNROLL
    for (int j = 0; j < N; ++j) {
      if (j >= count) continue;
      const int64_t id = first_ + at + j;
      if (!(excluded >> j & 1)) softmax::include(soft_, id, x[j]);
      if (!(suppressed >> j & 1)) found_.greedy.consider(x[j], id);
    }
    if (!noise_.on()) return;
    if (noise_.given()) {
      DPAD_UNROLL
      for (int j = 0; j < N; ++j) {
        if (j >= count || suppressed >> j & 1) continue;
        noise_.consider_given(found_.sampled, first_ + at + j, x[j]);
      }
    } else {
      sample<N>(x, first_ + at, count, suppressed);
    }
  }

  DPAD_DEVICE Found result() {
    found_.soft = softmax::widened(soft_);
    return found_;
  }

 private:
  // Only the few ids whose bound reaches the best of the warp so far pay for logarithms; they are
  // drawn again, in a loop, so that the code of a draw is there once.
  template <int N>
  DPAD_DEVICE void sample(const float (&x)[N], int64_t from, int count, unsigned suppressed) {
    unsigned open = 0;
    PhiloxCounter drawn{};
    DPAD_UNROLL
    for (int j = 0; j < N; ++j) {
      if (j % 2 == 0) drawn = noise_.draw(from + j);
      if (j >= count || suppressed >> j & 1) continue;
      const uint32_t high = Noise::high_word(drawn, from + j);
      if (noise_.may_reach(reached_, x[j], high)) open |= 1u << j;
    }
    const double before = reached_;
    DPAD_NO_UNROLL
    for (; open != 0; open &= open - 1) {
      const int lowest = highest_lane(open & -open);
      float value = x[0];
      DPAD_UNROLL
      for (int j = 1; j < N; ++j) value = j == lowest ? x[j] : value;
      drawn = noise_.draw(from + lowest);
      if (!noise_.may_reach(reached_, value, Noise::high_word(drawn, from + lowest))) continue;
      noise_.consider(found_.sampled, from + lowest, value, drawn);
      reached_ = Largest()(found_.sampled.value, reached_);
    }
    if (warp_votes(reached_ > before) != 0) reached_ = warp_reduce(reached_, Largest());
  }

  const IdSet suppress_, exclude_;
  const Noise& noise_;
  const int64_t first_;
  SoftmaxState<float> soft_ = softmax::empty<float>();
  Found found_;
  double reached_ = -INFINITY;  // best sampled value that some lane of the warp has found
};

}  // namespace dpad::cuda
