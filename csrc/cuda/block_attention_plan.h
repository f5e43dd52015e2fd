// Index maths of block_attention on CUDA: which rows and keys a block takes, and how the parts of a
// row are put together. Rows are packed: row r of a sequence and key/value head is query r / group,
// head r % group of the group.
#pragma once

#include <cmath>

#include "core/rows.h"
#include "params.h"

namespace dpad::cuda {

inline constexpr int kKeyTile = 64;  // keys that a block loads at a time
inline constexpr int kMaxSplits = 32;

DPAD_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Tiles of `tile_rows` packed rows over all sequences: never fewer than there are, whatever
// q_offsets, which the host does not see, will hold.
DPAD_HOST_DEVICE constexpr int64_t most_tiles(int64_t q_rows, int64_t batch, int64_t group,
                                              int64_t tile_rows) {
  return (q_rows * group + batch * (tile_rows - 1)) / tile_rows;
}

// Parts that the keys are split into: about two blocks per processor, whatever the number of keys,
// which only the device knows. Sequences are taken to be of equal length.
inline int attention_splits(const BlockAttentionParams& p, int64_t tile_rows, int processors) {
  const int64_t group = p.num_heads / p.num_kv_heads;
  const int64_t tiles = p.batch * ceil_div(ceil_div(p.q_rows, p.batch) * group, tile_rows);
  const int64_t wanted = 2 * processors / (tiles * p.num_kv_heads);
  const int64_t most = ceil_div(p.capacity, kKeyTile);
  const int64_t splits = wanted < most ? wanted : most;
  return static_cast<int>(splits < 1 ? 1 : splits < kMaxSplits ? splits : kMaxSplits);
}

// Packed rows and slots are counted in 32 bits: 2^31 of them would not fit into any memory.
struct RowTile {
  int sequence = -1;  // -1: there is no such tile
  int first = 0;      // of the sequence's packed rows
  int count = 0;
};

// Packed rows of a sequence. Sequences whose offsets make no sense have none.
DPAD_HOST_DEVICE inline int64_t packed_rows(const BlockAttentionParams& p, int64_t sequence) {
  const int64_t begin = p.q_offsets[sequence], end = p.q_offsets[sequence + 1];
  if (begin < 0 || end < begin || end > p.q_rows) return 0;
  return (end - begin) * (p.num_heads / p.num_kv_heads);
}

// Tile `index` of a sequence with that many rows.
DPAD_HOST_DEVICE inline RowTile tile_of(int64_t sequence, int64_t rows, int64_t tile_rows,
                                        int64_t index) {
  const int64_t first = index * tile_rows, left = rows - first;
  return {static_cast<int>(sequence), static_cast<int>(first),
          static_cast<int>(left < tile_rows ? left : tile_rows)};
}

// False: the rows of the sequence become NaN, which ends as a status.
DPAD_HOST_DEVICE inline bool has_keys(const BlockAttentionParams& p, int64_t sequence) {
  return inside(p.cache_row[sequence], p.cache_rows) && inside(p.n_keys[sequence], p.capacity + 1);
}

// A row of the query sees the slots below this, of a sequence with n keys.
DPAD_HOST_DEVICE inline int64_t limit_of(const BlockAttentionParams& p, int64_t query, int64_t n) {
  if (p.key_limit == nullptr) return n;
  const int64_t limit = p.key_limit[query];
  return limit < 0 ? 0 : limit < n ? limit : n;
}

struct KeyRange {
  int begin, end;  // key tiles
};

// Key tiles of part `split`: in order, without gaps, and as even as whole tiles allow.
DPAD_HOST_DEVICE constexpr KeyRange split_range(int64_t keys, int splits, int split) {
  const int64_t tiles = ceil_div(keys, kKeyTile);
  return {static_cast<int>(tiles * split / splits), static_cast<int>(tiles * (split + 1) / splits)};
}

// Soft-max weights of a part: 2^(score - base). `base` is 0 where there is no key yet.
DPAD_HOST_DEVICE inline float softmax_base(float peak) { return peak == -INFINITY ? 0.0f : peak; }

// Where the 16 bytes `chunk` of key `key` lie in a tile of rows of `row_bytes`: shifted, so that
// the eight rows that are read together lie in different banks.
DPAD_HOST_DEVICE constexpr int chunk_offset(int row_bytes, int key, int chunk) {
  return key * row_bytes + ((chunk ^ (key & 7)) << 4);
}

}  // namespace dpad::cuda
