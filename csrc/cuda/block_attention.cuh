// Attention on tensor cores, for 16-bit elements and head_dim 64 or 128. A block takes a tile of
// packed rows of one key/value head and one part of the keys; warps divide the tile's rows (16
// each) and the keys of every key tile; the last block of a tile merges the parts in their order.
//
//   scores [rows][keys] = Q K^T    m16n8k16: a = Q, from registers;     b = K as it lies
//   out    [rows][dims] = P V      m16n8k16: a = P, the scores' registers; b = V, read transposed
#pragma once

#include "cuda/block.cuh"
#include "cuda/block_attention_plan.h"
#include "cuda/rows.cuh"

namespace dpad::cuda {

inline constexpr int kStages = 2;  // key tiles in shared memory: one computed, one on its way
inline constexpr int kStep = 32;   // keys whose scores a warp holds in registers
inline constexpr float kLog2E = 1.44269504f;

template <class Element, int kHeadDim, int kRows16, int kKeyParts>
struct AttentionShape {
  using T = Element;
  static constexpr int kDim = kHeadDim, kRowWarps = kRows16, kKeyWarps = kKeyParts;
  static constexpr int kRows = 16 * kRowWarps;
  static constexpr int kBlock = 32 * kRowWarps * kKeyWarps;  // threads
  static constexpr int kKeys = kKeyTile / kKeyWarps;         // of a tile, per warp
  static_assert(kKeys % kStep == 0);
  static constexpr int kRowBytes = 2 * kDim, kTileBytes = kKeyTile * kRowBytes;
  static constexpr int kMaskOffset = kStages * 2 * kTileBytes;
  static constexpr int kSharedBytes = kMaskOffset + kStages * kKeyTile;
  static constexpr int kPart = kRows * (kDim + 2);  // floats of a part: out, peaks, sums
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  // The six warps of a wide head would spill in the registers of half a processor.
  static constexpr int kResident = kRowWarps * kDim <= 4 * 128 ? 2 : 1;
#else
  static constexpr int kResident = 2;  // blocks per processor
#endif
  static_assert((kKeyWarps - 1) * kPart * 4 <= kMaskOffset, "key parts meet in the tiles' memory");
};

// The rows that a block works on.
struct AttentionTask {
  RowTile tile;
  int kv_head, group;
  int query;  // first query of the sequence

  DPAD_DEVICE int64_t query_of(int r) const { return query + (tile.first + r) / group; }
  DPAD_DEVICE int head_of(int r) const { return kv_head * group + (tile.first + r) % group; }
};

DPAD_DEVICE AttentionTask task_of(const BlockAttentionParams& p, const RowTile& tile) {
  return {tile, static_cast<int>(block_y()), static_cast<int>(p.num_heads / p.num_kv_heads),
          static_cast<int>(p.q_offsets[tile.sequence])};
}

// The keys and values that a block works on. Pointers are made anew for every tile: registers are
// dearer than that.
struct KeySource {
  int row;   // of the caches
  int keys;  // slots that some row of the tile may look at

  DPAD_DEVICE KeySource(const BlockAttentionParams& p, const AttentionTask& task)
      : row(static_cast<int>(p.cache_row[task.tile.sequence])) {
    const int64_t n = p.n_keys[task.tile.sequence];
    keys = static_cast<int>(n);
    if (p.key_limit == nullptr) return;
    int most = 0;
    for (int r = thread_index() % 32; r < task.tile.count; r += 32) {
      most = Largest()(most, static_cast<int>(limit_of(p, task.query_of(r), n)));
    }
    keys = warp_reduce(most, Largest());
  }
};

// Begins to copy key tile `number` into shared memory; keys that no row may look at become zeros.
template <class S>
DPAD_DEVICE void load_tile(const BlockAttentionParams& p, const KeySource& source, int number,
                           unsigned char* shared) {
  using T = typename S::T;
  constexpr int kChunks = S::kRowBytes / 16;
  static_assert(S::kBlock % kChunks == 0);  // every thread keeps to its chunk of the rows
  const int stage = number % kStages, chunk = thread_index() % kChunks;
  unsigned char* keys = shared + stage * 2 * S::kTileBytes;
  const T* k = static_cast<const T*>(p.k_cache) + source.row * p.k_cache_stride +
               block_y() * p.k_head_stride + chunk * 8;
  const T* v = static_cast<const T*>(p.v_cache) + source.row * p.v_cache_stride +
               block_y() * p.v_head_stride + chunk * 8;
  const bool* mask = p.key_mask == nullptr ? nullptr : p.key_mask + source.row * p.key_mask_stride;
  DPAD_NO_UNROLL
  for (int key = thread_index() / kChunks; key < kKeyTile; key += S::kBlock / kChunks) {
    const int slot = number * kKeyTile + key;
    const bool seen = slot < source.keys && (mask == nullptr || mask[slot]);
    const int64_t from = seen ? slot : 0;
    const int at = chunk_offset(S::kRowBytes, key, chunk);
    copy_16(keys + at, k + from * p.k_slot_stride, seen);
    copy_16(keys + S::kTileBytes + at, v + from * p.v_slot_stride, seen);
    if (chunk == 0) shared[S::kMaskOffset + stage * kKeyTile + key] = seen;
  }
}

// The rows of one warp, in the register layout of m16n8k16: this lane holds of the rows
// lane / 4 and lane / 4 + 8 the columns 2 (lane % 4) and 2 (lane % 4) + 1 of every eight.
template <class S>
class AttentionRows {
 public:
  using T = typename S::T;

  // Reads the queries; nothing has been seen yet.
  DPAD_DEVICE void begin(const BlockAttentionParams& p, const AttentionTask& task) {
    idle_ = thread_index() / 32 % S::kRowWarps * 16 >= task.tile.count;
    for (int half = 0; half < 2; ++half) {
      const int r = row(thread_index(), half);
      const bool there = r < task.tile.count;
      const int64_t keys = p.n_keys[task.tile.sequence];
      limit_[half] = there ? static_cast<int>(limit_of(p, task.query_of(r), keys)) : 0;
      peak_[half] = -INFINITY, sum_[half] = 0;
      const T* q = static_cast<const T*>(p.q);
      if (there) q += task.query_of(r) * p.q_row_stride + task.head_of(r) * p.q_head_stride;
      DPAD_UNROLL
      for (int i = 0; i < S::kDim / 8; ++i) {
        const int at = 8 * i + 2 * (lane() % 4);
        q_[i / 2][half + i % 2 * 2] =
            there ? *reinterpret_cast<const uint32_t*>(q + at) : uint32_t{0};
      }
    }
    DPAD_UNROLL
    for (int i = 0; i < S::kDim / 8; ++i) {
      for (int e = 0; e < 4; ++e) out_[i][e] = 0;
    }
  }

  // One key tile, which lies in shared memory.
  DPAD_DEVICE void step(int number, const unsigned char* shared, float scale) {
    if (idle_) return;
    const int stage = number % kStages;
    const int k = stage * 2 * S::kTileBytes;
    const unsigned char* seen = shared + S::kMaskOffset + stage * kKeyTile;
    DPAD_NO_UNROLL
    for (int key = key_part() * S::kKeys; key < (key_part() + 1) * S::kKeys; key += kStep) {
      float s[kStep / 8][4] = {};
      multiply_keys(s, shared, k + key * S::kRowBytes);
      soften(s, number * kKeyTile + key, seen + key, scale);
      blend_values(s, shared, k + S::kTileBytes + key * S::kRowBytes);
    }
  }

  // Sums of the whole row, after the last step.
  DPAD_DEVICE void finish() {
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      sum_[half] += warp_xor(sum_[half], 1);
      sum_[half] += warp_xor(sum_[half], 2);
    }
  }

  DPAD_DEVICE bool leads() const { return key_part() == 0; }
  DPAD_DEVICE static int key_part() {
    return S::kKeyWarps == 1 ? 0 : thread_index() / 32 / S::kRowWarps;
  }

  // To and from the float32 layout of a part: out [rows][dims], peaks [rows], sums [rows].
  DPAD_DEVICE void store(float* part) const {
    const int thread = thread_index_again();
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = row(thread, half), column = 2 * (thread % 4);
      float* to = part + r * S::kDim + column;
      DPAD_UNROLL
      for (int i = 0; i < S::kDim / 8; ++i) {
        to[8 * i] = out_[i][2 * half], to[8 * i + 1] = out_[i][2 * half + 1];
      }
      if (column != 0) continue;
      part[S::kRows * S::kDim + r] = peak_[half];
      part[S::kRows * (S::kDim + 1) + r] = sum_[half];
    }
  }

  DPAD_DEVICE void add(const float* part) {
    const int thread = thread_index_again();
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = row(thread, half), column = 2 * (thread % 4);
      const float peak = part[S::kRows * S::kDim + r];
      const float sum = part[S::kRows * (S::kDim + 1) + r];
      const float* from = part + r * S::kDim + column;
      const float base = softmax_base(Largest()(peak_[half], peak));
      const float mine = exp2f(peak_[half] - base), theirs = exp2f(peak - base);
      peak_[half] = Largest()(peak_[half], peak);
      sum_[half] = sum_[half] * mine + sum * theirs;
      DPAD_UNROLL
      for (int i = 0; i < S::kDim / 8; ++i) {
        for (int e = 0; e < 2; ++e) {
          float& x = out_[i][2 * half + e];
          x = x * mine + from[8 * i + e] * theirs;
        }
      }
    }
  }

  // The finished rows; a row that saw no key has sum 0 and becomes zeros.
  DPAD_DEVICE void write(const BlockAttentionParams& p, const AttentionTask& task) const {
    const int thread = thread_index_again();
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = row(thread, half), column = 2 * (thread % 4);
      if (r >= task.tile.count) continue;
      const float inverse = sum_[half] == 0.0f ? 0.0f : 1.0f / sum_[half];
      T* to = static_cast<T*>(p.out) + (task.query_of(r) * p.num_heads + task.head_of(r)) * S::kDim;
      DPAD_UNROLL
      for (int i = 0; i < S::kDim / 8; ++i) {
        *reinterpret_cast<uint32_t*>(to + 8 * i + column) =
            pair_of<T>(out_[i][2 * half] * inverse, out_[i][2 * half + 1] * inverse);
      }
    }
  }

 private:
  DPAD_DEVICE static int lane() { return thread_index() % 32; }
  // Row of the tile: the warp's sixteen, then lane / 4 or lane / 4 + 8.
  DPAD_DEVICE static int row(int thread, int half) {
    return thread / 32 % S::kRowWarps * 16 + thread % 32 / 4 + 8 * half;
  }

  // s += Q K^T for the keys at `at` in shared memory. Matrices of a load: keys 0..7 and 8..15, of
  // each the dims 0..7 and 8..15. Chunks 2 d and 2 d + 1 lie where those of d = 0 lie, but for
  // bits of the offset that chunk_offset() flips.
  DPAD_DEVICE void multiply_keys(float (&s)[kStep / 8][4], const unsigned char* shared,
                                 int at) const {
    at += chunk_offset(S::kRowBytes, lane() / 16 * 8 + lane() % 8, lane() / 8 % 2);
    DPAD_UNROLL
    for (int d = 0; d < S::kDim / 16; ++d) {
      DPAD_UNROLL
      for (int j = 0; j < kStep / 8; j += 2) {
        uint32_t b[4];
        load_matrices(b, shared + (at ^ d << 5) + 8 * j * S::kRowBytes);
        multiply_add(s[j], q_[d], b[0], b[1], T{});
        multiply_add(s[j + 1], q_[d], b[2], b[3], T{});
      }
    }
  }

  // Scores become weights; peaks, sums and out move to the new peaks.
  DPAD_DEVICE void soften(float (&s)[kStep / 8][4], int slot, const unsigned char* seen,
                          float scale) {
    unsigned visible = 0;  // one bit per key of this lane
    DPAD_UNROLL
    for (int j = 0; j < kStep / 8; ++j) {
      const int key = 8 * j + 2 * (lane() % 4);
      visible |= (seen[key] | seen[key + 1] << 1) << 2 * j;
    }
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int limit = limit_[half] - slot - 2 * (lane() % 4);  // of the step's keys
      float peak = peak_[half];
      DPAD_UNROLL
      for (int j = 0; j < kStep / 8; ++j) {
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          const bool there = 8 * j + e % 2 < limit && (visible >> (2 * j + e % 2) & 1);
          s[j][e] = there ? s[j][e] * scale : -INFINITY;
          peak = Largest()(s[j][e], peak);
        }
      }
      peak = Largest()(warp_xor(peak, 1), peak);
      peak = Largest()(warp_xor(peak, 2), peak);
      const float base = softmax_base(peak), shift = exp2f(peak_[half] - base);
      peak_[half] = peak;
      float sum = sum_[half] * shift;
      DPAD_UNROLL
      for (int j = 0; j < kStep / 8; ++j) {
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[j][e] = exp2f(s[j][e] - base);
          sum += s[j][e];
        }
      }
      sum_[half] = sum;
      DPAD_UNROLL
      for (int i = 0; i < S::kDim / 8; ++i)
        out_[i][2 * half] *= shift, out_[i][2 * half + 1] *= shift;
    }
  }

  // out += P V. Matrices of a load: keys 0..7 and 8..15 of the dims 0..7, then of the dims 8..15.
  DPAD_DEVICE void blend_values(const float (&s)[kStep / 8][4], const unsigned char* shared,
                                int at) {
    at += chunk_offset(S::kRowBytes, lane() % 16, lane() / 16);
    DPAD_UNROLL
    for (int j = 0; j < kStep / 16; ++j) {
      const auto& low = s[2 * j];
      const auto& high = s[2 * j + 1];
      const uint32_t a[4] = {pair_of<T>(low[0], low[1]), pair_of<T>(low[2], low[3]),
                             pair_of<T>(high[0], high[1]), pair_of<T>(high[2], high[3])};
      DPAD_UNROLL
      for (int d = 0; d < S::kDim / 16; ++d) {
        uint32_t b[4];
        load_transposed(b, shared + (at ^ d << 5) + 16 * j * S::kRowBytes);
        multiply_add(out_[2 * d], a, b[0], b[1], T{});
        multiply_add(out_[2 * d + 1], a, b[2], b[3], T{});
      }
    }
  }

  bool idle_;  // no row of this warp exists
  int limit_[2];
  float peak_[2], sum_[2];  // of the scaled scores, base 2; sums of this lane until finish()
  uint32_t q_[S::kDim / 16][4];
  float out_[S::kDim / 8][4];
};

// One element of a merged row from its parts, in their order.
template <class S>
DPAD_DEVICE float merged_element(const float* parts, int splits, int row, int dim) {
  const float* peaks = parts + S::kRows * S::kDim + row;
  float peak = -INFINITY;
  for (int s = 0; s < splits; ++s) peak = Largest()(load_fresh(peaks + s * S::kPart), peak);
  const float base = softmax_base(peak);
  float sum = 0, out = 0;
  for (int s = 0; s < splits; ++s) {
    const float* part = parts + s * S::kPart;
    const float weight = exp2f(load_fresh(part + S::kRows * S::kDim + row) - base);
    sum += load_fresh(part + S::kRows * (S::kDim + 1) + row) * weight;
    out += load_fresh(part + row * S::kDim + dim) * weight;
  }
  return sum == 0.0f ? 0.0f : out / sum;
}

template <class S>
DPAD_DEVICE void write_rows(const BlockAttentionParams& p, const AttentionTask& task,
                            const float* parts, int splits) {
  using T = typename S::T;
  for (int i = thread_index(); i < task.tile.count * S::kDim; i += S::kBlock) {
    const int r = i / S::kDim, d = i % S::kDim;
    const float x = parts == nullptr ? NAN : merged_element<S>(parts, splits, r, d);
    static_cast<T*>(p.out)[(task.query_of(r) * p.num_heads + task.head_of(r)) * S::kDim + d] =
        from_float<T>(x);
  }
}

// The block's part of the keys, tile by tile.
template <class S>
DPAD_DEVICE void attend(const BlockAttentionParams& p, const RowTile& tile, int splits,
                        unsigned char* shared, AttentionRows<S>& rows) {
  const AttentionTask task = task_of(p, tile);
  const KeySource source(p, task);
  const KeyRange range = split_range(source.keys, splits, static_cast<int>(block_x()));
  if (range.begin < range.end) load_tile<S>(p, source, range.begin, shared);
  commit_copies();
  rows.begin(p, task);
  for (int number = range.begin; number < range.end; ++number) {
    if (number + 1 < range.end) load_tile<S>(p, source, number + 1, shared);
    commit_copies();
    wait_copies<kStages - 1>();
    block_sync();  // the tile of every thread is there
    rows.step(number, shared, p.scale * kLog2E);
    block_sync();  // the tile has been used
  }
  wait_copies<0>();
  rows.finish();
}

// Blocks [splits, kv heads, tiles]. `parts` holds kPart floats for every block; `tickets`, one for
// every tile and kv head, are 0.
template <class S>
DPAD_KERNEL(S::kBlock, S::kResident)
block_attention_kernel(const BlockAttentionParams p, int splits, float* parts, unsigned* tickets) {
  const RowTile tile = find_tile(p, S::kRows, block_z());
  if (tile.sequence < 0) return;
  if (!has_keys(p, tile.sequence)) {
    if (block_x() == 0) write_rows<S>(p, task_of(p, tile), nullptr, 0);
    return;
  }
  auto* shared = static_cast<unsigned char*>(dynamic_shared());
  AttentionRows<S> rows;
  attend<S>(p, tile, splits, shared, rows);

  auto* meeting = reinterpret_cast<float*>(shared);
  if (S::kKeyWarps > 1) {
    if (!rows.leads()) rows.store(meeting + (rows.key_part() - 1) * S::kPart);
    block_sync();
    if (rows.leads()) {
      for (int i = 0; i + 1 < S::kKeyWarps; ++i) rows.add(meeting + i * S::kPart);
    }
  }
  // Found out once more: registers are dearer during the loop than a few loads after it.
  const AttentionTask task = task_of(p, find_tile(p, S::kRows, block_z()));
  if (splits == 1) {
    if (rows.leads()) rows.write(p, task);
    return;
  }
  const int64_t pair = block_z() * p.num_kv_heads + block_y();
  if (rows.leads()) rows.store(parts + (pair * splits + block_x()) * S::kPart);
  if (last_of_group(tickets + pair, splits)) {
    write_rows<S>(p, task, parts + pair * splits * S::kPart, splits);
  }
}

// True when the kernel can serve this call: everything can be moved 16 bytes at a time.
inline bool block_attention_fits(const BlockAttentionParams& p) {
  return p.dtype != DType::kFloat32 && (p.head_dim == 64 || p.head_dim == 128) &&
         aligned(2, p.q, p.q_row_stride, p.q_head_stride) && aligned(2, p.out) &&
         aligned(2, p.k_cache, p.k_cache_stride, p.k_head_stride, p.k_slot_stride) &&
         aligned(2, p.v_cache, p.v_cache_stride, p.v_head_stride, p.v_slot_stride);
}

}  // namespace dpad::cuda
