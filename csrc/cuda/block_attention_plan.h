// Index maths of block_attention: how the work of a call is shared out. Rows are packed: row r of a
// sequence and key/value head is query r / group, head r % group of the group. The host knows
// neither the rows nor the keys of a sequence, so it launches as many blocks as any division could
// need, and the blocks divide the work among themselves.
#pragma once

#include <cmath>

#include "core/rows.h"
#include "params.h"

namespace dpad::cuda {

inline constexpr int kKeyTile = 64;    // keys that a block loads at a time
inline constexpr int kTileRows = 96;   // packed rows that a block works on at most
inline constexpr int kTileWarps = 6;   // 16 rows each; of fewer rows several warps share the keys
inline constexpr int kMaxSplits = 32;  // one for every lane of the warp that merges them

DPAD_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Heads of the queries that share a key/value head; in 32 bits, which divide quickly.
DPAD_HOST_DEVICE inline int group_of(const BlockAttentionParams& p) {
  return static_cast<int>(p.num_heads) / static_cast<int>(p.num_kv_heads);
}

// Tiles of packed rows over all sequences: never fewer than there are, whatever q_offsets holds.
DPAD_HOST_DEVICE constexpr int64_t most_tiles(int64_t q_rows, int64_t batch, int64_t group) {
  return (q_rows * group + batch * (kTileRows - 1)) / kTileRows;
}

// Parts that the keys of one key/value head may be split into, over all tiles, for about two blocks
// per processor; 1 where the tiles alone are as many.
inline int attention_parts(const BlockAttentionParams& p, int processors) {
  const int64_t fewest = ceil_div(p.q_rows * group_of(p), kTileRows);
  const int64_t wanted = 2 * processors / p.num_kv_heads;
  const bool splits = wanted > fewest && p.slots > 2 * kKeyTile;
  return static_cast<int>(splits ? wanted : 1);
}

// Blocks of a key/value head: each tile has one, and one more for every part beyond its first.
DPAD_HOST_DEVICE constexpr int64_t attention_blocks(int64_t tiles, int parts) {
  return tiles + parts - 1;
}

// What one sequence brings in. Packed rows and slots are counted in 32 bits: 2^31 of them would not
// fit into any memory.
struct SequenceWork {
  int tiles = 0;
  int extra = 0;  // parts beyond the first that its keys allow: a part has two key tiles
};

// Packed rows of a sequence. Sequences whose offsets make no sense have none.
DPAD_HOST_DEVICE inline int packed_rows(const BlockAttentionParams& p, int64_t sequence) {
  const int64_t begin = p.q_offsets[sequence], end = p.q_offsets[sequence + 1];
  if (begin < 0 || end < begin || end > p.q_rows) return 0;
  return static_cast<int>(end - begin) * group_of(p);
}

// False: the rows of the sequence become NaN, which ends as a status.
DPAD_HOST_DEVICE inline bool has_keys(const BlockAttentionParams& p, int64_t sequence) {
  return within_arena(p.kv_start[sequence], p.n_keys[sequence], p.slots);
}

DPAD_HOST_DEVICE inline SequenceWork work_of(const BlockAttentionParams& p, int64_t sequence) {
  SequenceWork work;
  if (sequence >= p.batch) return work;
  // All loads come first, so that none waits for another.
  const int64_t start = p.kv_start[sequence], keys = p.n_keys[sequence];
  const int rows = packed_rows(p, sequence);
  work.tiles = (rows + kTileRows - 1) / kTileRows;
  const bool split = rows > 0 && keys > 0 && within_arena(start, keys, p.slots);
  if (split) work.extra = static_cast<int>(ceil_div(keys, 2 * kKeyTile)) - 1;
  return work;
}

// The same over all sequences.
struct AllWork {
  int tiles = 0;  // of the sequences whose keys can be split
  int64_t extra = 0;

  DPAD_HOST_DEVICE void add(const SequenceWork& work) {
    if (work.extra == 0) return;
    tiles += work.tiles;
    extra += int64_t{work.tiles} * work.extra;
  }
};

// Parts of each tile of a sequence, in proportion to its keys. Sequences too short to be split, as
// padding is, change nothing for the others.
DPAD_HOST_DEVICE inline int splits_of(const SequenceWork& work, const AllWork& all, int parts) {
  if (work.extra == 0 || all.extra == 0 || parts <= all.tiles) return 1;
  const int64_t more = int64_t{parts - all.tiles} * work.extra / all.extra;
  const int64_t most = work.extra < kMaxSplits - 1 ? work.extra : kMaxSplits - 1;
  return 1 + static_cast<int>(more < most ? more : most);
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
DPAD_HOST_DEVICE constexpr KeyRange split_range(int keys, int splits, int split) {
  const unsigned tiles = keys / kKeyTile + (keys % kKeyTile > 0), all = splits, at = split;
  return {static_cast<int>(tiles * at / all), static_cast<int>(tiles * (at + 1) / all)};
}

// What a warp of a block takes: sixteen rows and the keys [first_key, last_key) of every key tile.
// Warps that find no rows have no keys.
struct WarpPlace {
  int row, part, parts, first_key, last_key;
};

DPAD_HOST_DEVICE constexpr WarpPlace warp_place(int rows, int warp) {
  const int row_warps = (rows + 15) / 16;
  const int parts = row_warps <= 1 ? 4 : 2 * row_warps <= kTileWarps ? 2 : 1;
  const int part = warp / row_warps, keys = part < parts ? kKeyTile / parts : 0;
  return {16 * (warp % row_warps), part, parts, part * keys, part * keys + keys};
}

// Soft-max weights of a part: 2^(score - base). `base` is 0 where there is no key yet.
DPAD_HOST_DEVICE inline float softmax_base(float peak) { return peak == -INFINITY ? 0.0f : peak; }

// Where the 16 bytes `chunk` of key `key` lie in a tile of rows of `row_bytes`: shifted, so that
// the eight rows that are read together lie in different banks.
DPAD_HOST_DEVICE constexpr int chunk_offset(int row_bytes, int key, int chunk) {
  return key * row_bytes + ((chunk ^ (key & 7)) << 4);
}

}  // namespace dpad::cuda
