// Tiles of block_attention on tensor cores: their shapes, what a block works on, and how keys and
// values come into shared memory.
#pragma once

#include "cuda/block.cuh"
#include "cuda/block_attention_plan.h"

namespace dpad::cuda {

inline constexpr int kStages = 2;  // key tiles in shared memory: one computed, one on its way
inline constexpr float kLog2E = 1.44269504f;

template <class Element, int kHeadDim, int kRows16, int kKeyParts>
struct AttentionShape {
  using T = Element;
  static constexpr int kDim = kHeadDim, kRowWarps = kRows16, kKeyWarps = kKeyParts;
  static constexpr int kRows = 16 * kRowWarps;
  static constexpr int kBlock = 32 * kRowWarps * kKeyWarps;  // threads
  static constexpr int kKeys = kKeyTile / kKeyWarps;         // of a tile, per warp
  // Keys whose scores a warp holds in registers; fewer where its rows take most of them.
  static constexpr int kStep = kRowWarps * kDim > 4 * 128 ? 16 : 32;
  static_assert(kKeys % kStep == 0);
  static constexpr int kRowBytes = 2 * kDim, kTileBytes = kKeyTile * kRowBytes;
  static constexpr int kMaskOffset = kStages * 2 * kTileBytes;
  static constexpr int kSharedBytes = kMaskOffset + kStages * kKeyTile;
  static constexpr int kPart = kRows * (kDim + 2);  // floats of a part: out, peaks, sums
  static_assert((kKeyWarps - 1) * kPart * 4 <= kMaskOffset, "key parts meet in the tiles' memory");
};

// The tile of number `index` over all sequences. The warp looks at 32 sequences at a time, each
// lane at one: one after the other, the loads of a large batch would take longer than the
// attention.
DPAD_DEVICE RowTile find_tile(const BlockAttentionParams& p, int64_t tile_rows, int64_t index) {
  const int lane = thread_index() % 32;
  for (int64_t first = 0; first < p.batch; first += 32) {
    const int64_t rows = first + lane < p.batch ? packed_rows(p, first + lane) : 0;
    const int64_t own = ceil_div(rows, tile_rows);
    int64_t upto = own;  // tiles of this lane's sequence and of those before it
    for (int distance = 1; distance < 32; distance *= 2) {
      const int64_t before = warp_from(upto, lane - distance);
      if (lane >= distance) upto += before;
    }
    const bool here = index >= upto - own && index < upto;
    const int found = warp_reduce(here ? lane : -1, Largest());
    if (found >= 0) {
      const int64_t in_sequence = warp_from(index - (upto - own), found);
      return tile_of(first + found, warp_from(rows, found), tile_rows, in_sequence);
    }
    index -= warp_from(upto, 31);
  }
  return {};
}

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

// The keys and values that a block works on.
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

// What a block writes down before its loop and reads again in it: registers are dearer there than
// shared memory.
struct Notes {
  int sequence, first, count;  // the tile
  int row, keys;               // the key source
};

// Begins to copy key tile `number` into shared memory; keys that no row may look at become zeros.
template <class S>
DPAD_DEVICE void load_tile(const BlockAttentionParams& p, const Notes& notes, int number,
                           unsigned char* shared) {
  using T = typename S::T;
  constexpr int kChunks = S::kRowBytes / 16;
  static_assert(S::kBlock % kChunks == 0);  // every thread keeps to its chunk of the rows
  const int stage = number % kStages, chunk = thread_index() % kChunks;
  unsigned char* keys = shared + stage * 2 * S::kTileBytes;
  const int keys_end = notes.keys;
  const T* k = static_cast<const T*>(p.k_cache) + notes.row * p.k_cache_stride +
               block_y() * p.k_head_stride + chunk * 8;
  const T* v = static_cast<const T*>(p.v_cache) + notes.row * p.v_cache_stride +
               block_y() * p.v_head_stride + chunk * 8;
  const bool* mask = p.key_mask == nullptr ? nullptr : p.key_mask + notes.row * p.key_mask_stride;
  DPAD_NO_UNROLL
  for (int key = thread_index() / kChunks; key < kKeyTile; key += S::kBlock / kChunks) {
    const int slot = number * kKeyTile + key;
    const bool seen = slot < keys_end && (mask == nullptr || mask[slot]);
    const int64_t from = seen ? slot : 0;
    const int at = chunk_offset(S::kRowBytes, key, chunk);
    copy_16(keys + at, k + from * p.k_slot_stride, seen);
    copy_16(keys + S::kTileBytes + at, v + from * p.v_slot_stride, seen);
    if (chunk == 0) shared[S::kMaskOffset + stage * kKeyTile + key] = seen;
  }
}

}  // namespace dpad::cuda
