// Token and scores of logit rows. A row is cut into chunks of kChunk ids, whatever the batch, so
// its bits depend on nothing else; one block takes a chunk, and the last block of a row merges
// them.
#pragma once

#include "cuda/confidence_scan.cuh"
#include "cuda/rows.cuh"

namespace dpad::cuda {

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
