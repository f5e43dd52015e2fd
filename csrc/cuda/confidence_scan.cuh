// What the threads of a block find out about a chunk of a row's ids, and how two findings merge.
#pragma once

#include "core/gumbel.h"
#include "core/rows.h"
#include "core/softmax_state.h"
#include "cuda/block.cuh"
#include "params.h"

namespace dpad::cuda {

inline constexpr int kChunk = 8192;

// The largest value and the lowest id that has it; -1: none.
template <class Real>
struct Best {
  Real value = -INFINITY;
  int64_t id = -1;

  DPAD_DEVICE void consider(Real other, int64_t other_id) {
    if (other_id < 0 || !(other > value || (other == value && (id < 0 || other_id < id)))) return;
    if (other == -INFINITY) return;
    value = other;
    id = other_id;
  }
};

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

// Over the block; valid in warp 0.
DPAD_DEVICE Found block_merge(Found x) {
  DPAD_SHARED unsigned long long of_warp[kThreads / 32][kFoundWords];
  const auto add = [](Found a, const Found& b) {
    a.add(b);
    return a;
  };
  x = warp_reduce(x, add);
  block_sync();  // the results of the block's previous merge have been read
  const int lane = thread_index() % 32, warp = thread_index() / 32;
  if (lane == 0) memcpy(of_warp[warp], &x, sizeof x);
  block_sync();
  if (warp > 0) return x;
  x = Found();
  if (lane < kThreads / 32) memcpy(&x, of_warp[lane], sizeof x);
  return warp_reduce(x, add);
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

// The noise of one row: the caller's, or the counter-based stream.
class Noise {
 public:
  DPAD_DEVICE Noise(const ConfidenceParams& p, int64_t row, int64_t sequence) {
    if (sequence < 0 || !(p.temperature[sequence] > 0)) return;
    temperature_ = p.temperature[sequence];
    if (p.noise != nullptr) {
      given_ = p.noise + row * p.noise_stride;
      return;
    }
    const int64_t* rng = p.rng + 3 * sequence;
    key_ = stream_key(rng[0], rng[1], Stream::kNoise);
    counter_ = gumbel_counter(0, p.position[row], rng[2]);
  }

  DPAD_DEVICE bool on() const { return temperature_ > 0; }
  DPAD_DEVICE bool given() const { return given_ != nullptr; }

  DPAD_DEVICE void consider_given(Best<double>& best, int64_t id, float x) const {
    best.consider(add_rn(double{x}, mul_rn(temperature_, given_[id])), id);
  }

  DPAD_DEVICE PhiloxCounter draw(int64_t id) const {
    PhiloxCounter counter = counter_;
    counter.word[0] = low32(id >> 1);
    return philox(counter, key_);
  }

  // Only a candidate whose upper bound reaches the best so far pays for logarithms.
  DPAD_DEVICE void consider(Best<double>& best, int64_t id, float x,
                            const PhiloxCounter& drawn) const {
    const bool odd = id & 1;  // selected, not indexed: an index would cost local memory
    const uint32_t high = odd ? drawn.word[2] : drawn.word[0];
    const uint32_t low = odd ? drawn.word[3] : drawn.word[1];
    const double bound = x + temperature_ * gumbel_bound(high);
    if (bound < best.value - 1e-6 * (fabs(best.value) + 220.0 * temperature_)) return;
    best.consider(add_rn(double{x}, mul_rn(temperature_, gumbel_of_words(high, low))), id);
  }

 private:
  double temperature_ = 0;
  const double* given_ = nullptr;
  PhiloxKey key_{};
  PhiloxCounter counter_{};
};

// This thread's part of a chunk: SoftmaxState in float32 over at most kChunk / kThreads ids.
class ChunkScan {
 public:
  DPAD_DEVICE ChunkScan(const IdSet& suppress, const IdSet& exclude, const Noise& noise,
                        int64_t first)
      : suppress_(suppress), exclude_(exclude), noise_(noise), first_(first) {}

  // `count` <= N ids from `at` of the chunk on; `at` is even where N is.
  template <int N>
  DPAD_DEVICE void take(const float (&x)[N], int at, int count) {
    const unsigned suppressed = suppress_.from(at), excluded = exclude_.from(at);
    DPAD_UNROLL
    for (int j = 0; j < N; ++j) {
      if (j >= count) continue;
      const int64_t id = first_ + at + j;
      if (!(excluded >> j & 1)) softmax::include(soft_, id, x[j]);
      if (!(suppressed >> j & 1)) found_.greedy.consider(x[j], id);
    }
    if (!noise_.on()) return;
    PhiloxCounter drawn{};
    DPAD_UNROLL
    for (int j = 0; j < N; ++j) {
      if (j >= count) continue;
      const int64_t id = first_ + at + j;
      if (j % 2 == 0 && !noise_.given()) drawn = noise_.draw(id);
      if (suppressed >> j & 1) continue;
      if (noise_.given()) {
        noise_.consider_given(found_.sampled, id, x[j]);
      } else {
        noise_.consider(found_.sampled, id, x[j], drawn);
      }
    }
  }

  DPAD_DEVICE Found result() {
    found_.soft = softmax::widened(soft_);
    return found_;
  }

 private:
  const IdSet suppress_, exclude_;
  const Noise& noise_;
  const int64_t first_;
  SoftmaxState<float> soft_ = softmax::empty<float>();
  Found found_;
};

}  // namespace dpad::cuda
