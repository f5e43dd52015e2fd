// Token and scores of logit rows. A row is cut into chunks of kChunk ids, whatever the batch, so
// its bits depend on nothing else; one block takes a chunk, and a second kernel merges those of a
// row.
#pragma once

#include "cuda/confidence_scan.cuh"
#include "cuda/rows.cuh"

namespace dpad::cuda {

// The N logits from `at` on of the `count` of a chunk; zeros beyond it.
template <class T, int N>
DPAD_DEVICE Pack<T, N> read_logits(const T* logits, int at, int count) {
  if (at + N <= count) return read_pack<T, N>(logits + at);
  Pack<T, N> pack{};
  DPAD_UNROLL
  for (int j = 0; j < N; ++j) {
    if (at + j < count) pack.at[j] = logits[at + j];
  }
  return pack;
}

// `next` holds this thread's first logits, which were on their way before anything else.
template <class T, int N>
DPAD_DEVICE Found scan_chunk(const ConfidenceParams& p, const T* logits, int64_t first, int count,
                             Pack<T, N> next, const Noise& noise) {
  DPAD_SHARED unsigned suppressed[kChunk / 32], excluded[kChunk / 32];
  const IdSet suppress(suppressed), exclude(excluded);
  suppress.clear();
  exclude.clear();
  block_sync();
  suppress.add(p.suppress, p.suppress_count, first);
  exclude.add(p.exclude, p.exclude_count, first);
  block_sync();
  ChunkScan scan(suppress, exclude, noise, first);
  DPAD_NO_UNROLL
  for (int begin = 0; begin < count; begin += kThreads * N) {  // in step: the warps vote
    const int at = begin + thread_index() * N;
    float x[N];
    DPAD_UNROLL
    for (int j = 0; j < N; ++j) x[j] = to_float(next.at[j]);
    next = read_logits<T, N>(logits, at + kThreads * N, count);
    scan.take<N>(x, at, count - at < N ? count - at : N);
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

// Blocks [rows x chunks]. `parts` gets the words of a Found from each, where there are several.
template <class T, int N>
DPAD_KERNEL(kThreads, 2)
confidence_kernel(const ConfidenceParams p, int chunks, unsigned long long* parts) {
  const int64_t row = block_x() / chunks, first = block_x() % chunks * kChunk;
  const T* logits = static_cast<const T*>(p.logits) + row * p.logits_stride + first;
  const int count = static_cast<int>(p.vocab - first < kChunk ? p.vocab - first : kChunk);
  const Pack<T, N> next = read_logits<T, N>(logits, thread_index() * N, count);
  const int64_t sequence = warp_sequence_of(p.l_offsets, p.batch, row);
  const Noise noise(p, row, sequence);
  const Found found = block_merge(scan_chunk<T, N>(p, logits, first, count, next, noise));
  if (thread_index() > 0) return;
  if (chunks == 1) return write_row<T>(p, row, found, sequence >= 0, noise.on());
  unsigned long long words[kFoundWords];
  memcpy(words, &found, sizeof found);
  for (int w = 0; w < kFoundWords; ++w) parts[block_x() * kFoundWords + w] = words[w];
}

// A warp takes a row: its chunks in their order.
template <class T>
DPAD_KERNEL(kThreads, 2)
confidence_merge_kernel(const ConfidenceParams p, int chunks, const unsigned long long* parts) {
  const int64_t row = block_x() * (kThreads / 32) + thread_index() / 32;
  if (row >= p.rows) return;
  Found found;
  for (int c = thread_index() % 32; c < chunks; c += 32) {
    unsigned long long words[kFoundWords];
    for (int w = 0; w < kFoundWords; ++w) words[w] = parts[(row * chunks + c) * kFoundWords + w];
    Found part;
    memcpy(&part, words, sizeof part);
    found.add(part);
  }
  found = warp_merge(found);
  const int64_t sequence = warp_sequence_of(p.l_offsets, p.batch, row);
  if (thread_index() % 32 > 0) return;
  const bool sampling = sequence >= 0 && p.temperature[sequence] > 0;
  write_row<T>(p, row, found, sequence >= 0, sampling);
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
