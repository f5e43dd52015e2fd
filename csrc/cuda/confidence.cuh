// Token and scores of logit rows. A row is cut into chunks of kChunk ids, whatever the batch, so
// its bits depend on nothing else; one block takes a chunk, and the last block of a row merges
// them.
#pragma once

#include "core/gumbel.h"
#include "core/rows.h"
#include "core/softmax_state.h"
#include "cuda/block.cuh"
#include "cuda/rows.cuh"
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

template <class T, int N>
DPAD_DEVICE Found scan_chunk(const ConfidenceParams& p, int64_t row, int64_t first,
                             const Noise& noise) {
  DPAD_SHARED unsigned suppressed[kChunk / 32], excluded[kChunk / 32];
  const IdSet suppress(suppressed), exclude(excluded);
  suppress.clear();
  exclude.clear();
  block_sync();
  suppress.add(p.suppress, p.suppress_count, first);
  exclude.add(p.exclude, p.exclude_count, first);
  block_sync();
  const T* logits = static_cast<const T*>(p.logits) + row * p.logits_stride + first;
  const int count = static_cast<int>(p.vocab - first < kChunk ? p.vocab - first : kChunk);
  ChunkScan scan(suppress, exclude, noise, first);
  for (int at = thread_index() * N; at < count; at += kThreads * N) {
    float x[N];
    const int here = count - at < N ? count - at : N;
    if (here == N) {
      const auto pack = *reinterpret_cast<const Pack<T, N>*>(logits + at);
      DPAD_UNROLL
      for (int j = 0; j < N; ++j) x[j] = to_float(pack.at[j]);
    } else {
      DPAD_UNROLL
      for (int j = 0; j < N; ++j) x[j] = j < here ? to_float(logits[at + j]) : 0.0f;
    }
    scan.take<N>(x, at, here);
  }
  return scan.result();
}

DPAD_DEVICE bool listed(const int64_t* ids, int64_t count, int64_t id) {
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] == id) return true;
  }
  return false;
}

// A row without a sequence, or without an id that may be chosen, gets token 0 and NaN scores, which
// end as a status.
template <class T>
DPAD_DEVICE void write_row(const ConfidenceParams& p, int64_t row, const Found& found,
                           bool has_sequence, bool sampling) {
  int64_t token = sampling && found.sampled.id >= 0 ? found.sampled.id : found.greedy.id;
  if (token < 0) {  // no logit decides: the lowest id that may be chosen
    for (token = 0; token < p.vocab && listed(p.suppress, p.suppress_count, token);) ++token;
  }
  softmax::Scores scores{NAN, NAN, NAN};
  if (token >= p.vocab || !has_sequence) {
    token = 0;
  } else {
    const float x = to_float(static_cast<const T*>(p.logits)[row * p.logits_stride + token]);
    scores = softmax::scores(found.soft, x, listed(p.exclude, p.exclude_count, token));
  }
  const auto emit = [&](double* out, double x) {
    out[row] = p.round_to_dtype ? rounded<T>(static_cast<float>(x)) : x;
  };
  p.token[row] = token;
  emit(p.probability, scores.probability);
  emit(p.margin, scores.margin);
  emit(p.entropy, scores.entropy);
}

// Blocks [rows x chunks]. `parts` holds the words of a Found for each; `tickets`, [rows], is 0.
template <class T, int N>
DPAD_KERNEL(kThreads, 2)
confidence_kernel(const ConfidenceParams p, int chunks, unsigned long long* parts,
                  unsigned* tickets) {
  const int64_t row = block_x() / chunks, chunk = block_x() % chunks;
  const int64_t sequence = sequence_of(p.l_offsets, p.batch, row);
  const Noise noise(p, row, sequence);
  Found found = block_merge(scan_chunk<T, N>(p, row, chunk * kChunk, noise));
  if (chunks > 1) {
    unsigned long long words[kFoundWords];
    if (thread_index() == 0) {
      memcpy(words, &found, sizeof found);
      for (int w = 0; w < kFoundWords; ++w) parts[block_x() * kFoundWords + w] = words[w];
    }
    if (!last_of_group(tickets + row, chunks)) return;
    found = Found();
    for (int64_t c = thread_index(); c < chunks; c += kThreads) {
      const unsigned long long* from = parts + (row * chunks + c) * kFoundWords;
      for (int w = 0; w < kFoundWords; ++w) words[w] = load_fresh(from + w);
      Found part;
      memcpy(&part, words, sizeof part);
      found.add(part);
    }
    found = block_merge(found);
  }
  if (thread_index() == 0) write_row<T>(p, row, found, sequence >= 0, noise.on());
}

inline int confidence_chunks(const ConfidenceParams& p) {
  return static_cast<int>(p.vocab > 0 ? (p.vocab + kChunk - 1) / kChunk : 1);
}

// True when every row can be read 16 bytes at a time.
template <class T>
bool confidence_wide(const ConfidenceParams& p) {
  return aligned(sizeof(T), p.logits, p.logits_stride);
}

}  // namespace dpad::cuda
