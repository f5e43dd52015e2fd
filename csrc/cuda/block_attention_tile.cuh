// Tiles of block_attention on tensor cores: their shapes, what a block works on, and how keys and
// values come into shared memory.
#pragma once

#include "cuda/block.cuh"
#include "cuda/block_attention_plan.h"

namespace dpad::cuda {

inline constexpr int kStages = 2;  // key tiles in shared memory: one computed, one on its way
inline constexpr float kLog2E = 1.44269504f;

template <class Element, int kHeadDim>
struct AttentionShape {
  using T = Element;
  static constexpr int kDim = kHeadDim;
  static constexpr int kBlock = 32 * kTileWarps;  // threads
  static constexpr int kRowBytes = 2 * kDim, kTileBytes = kKeyTile * kRowBytes;
  static constexpr int kMaskOffset = kStages * 2 * kTileBytes;
  static constexpr int kSharedBytes = kMaskOffset + kStages * kKeyTile;
  // A row of a part, in floats: out, peak, sum; padded, so that the rows that a warp stores
  // together lie in different banks.
  static constexpr int kPitch = kDim + 8;
  static constexpr int kPart = kTileRows * kPitch;
  static_assert(kTileWarps / 2 * 16 * kPitch * 4 <= kMaskOffset,
                "warps exchange rows in the tiles' memory");
};

// Where the work of a sequence lies: of its first tile the first block, and the place of the first
// part in scratch memory, which only tiles of several parts have.
struct WorkPlace {
  int sequence = -1;  // -1: nothing is there
  int splits = 1;
  int block = 0, part = 0;
};

// The sequence of which `holds(work, place)` is true. The warp looks at 32 sequences at a time,
// each lane at one: one after the other, the loads of a large batch would take longer than the
// attention.
template <class Holds>
DPAD_DEVICE WorkPlace find_work(const BlockAttentionParams& p, int parts, const Holds& holds) {
  const int lane = thread_index() % 32;
  const SequenceWork head = work_of(p, lane);
  AllWork all;
  if (parts > 1) {
    all.add(head);
    DPAD_NO_UNROLL
    for (int64_t first = 32; first < p.batch; first += 32) all.add(work_of(p, first + lane));
    all.tiles = warp_reduce(all.tiles, Sum()), all.extra = warp_reduce(all.extra, Sum());
  }
  int64_t before = 0;  // blocks, and in the high half parts, of the sequences before these 32
  DPAD_NO_UNROLL
  for (int64_t first = 0; first < p.batch; first += 32) {
    const SequenceWork work = first == 0 ? head : work_of(p, first + lane);
    const int splits = splits_of(work, all, parts);
    const int64_t blocks = int64_t{work.tiles} * splits;
    const int64_t own = blocks + (splits > 1 ? blocks << 32 : 0);
    int64_t upto = own;
    for (int distance = 1; distance < 32; distance *= 2) {
      const int64_t other = warp_from(upto, lane - distance);
      if (lane >= distance) upto += other;
    }
    const int64_t start = before + upto - own;
    const WorkPlace place{static_cast<int>(first) + lane, splits, static_cast<int>(start),
                          static_cast<int>(start >> 32)};
    const int found = highest_lane(warp_votes(work.tiles > 0 && holds(work, place)));
    if (found >= 0) {
      return {static_cast<int>(first) + found, warp_from(splits, found),
              warp_from(place.block, found), warp_from(place.part, found)};
    }
    before += warp_from(upto, 31);
  }
  return {};
}

// What a block works on.
struct AttentionTask {
  int sequence;             // -1: nothing
  int first, count;         // the tile: packed rows of the sequence
  int split, splits, part;  // the part of the keys; where it lies in scratch memory
  int kv_head, group;
  int query;  // first query of the sequence

  DPAD_DEVICE int64_t query_of(int r) const { return query + (first + r) / group; }
  DPAD_DEVICE int head_of(int r) const { return kv_head * group + (first + r) % group; }
};

// Block `index` of those of one key/value head.
DPAD_DEVICE AttentionTask find_task(const BlockAttentionParams& p, int parts, int index,
                                    int kv_head) {
  const WorkPlace place = find_work(p, parts, [&](const SequenceWork& work, const WorkPlace& s) {
    return index >= s.block && index - s.block < work.tiles * s.splits;
  });
  AttentionTask task{};
  task.sequence = place.sequence;
  if (place.sequence < 0) return task;
  const int at = index - place.block, left = packed_rows(p, place.sequence);
  task.first = at / place.splits * kTileRows;
  task.count = left - task.first < kTileRows ? left - task.first : kTileRows;
  task.split = at % place.splits, task.splits = place.splits, task.part = place.part + at;
  task.kv_head = kv_head, task.group = group_of(p);
  task.query = static_cast<int>(p.q_offsets[place.sequence]);
  return task;
}

// The keys and values that a block works on.
struct KeySource {
  int start;  // arena slot of the sequence's slot 0
  int keys;   // slots that some row of the tile may look at

  DPAD_DEVICE KeySource(const BlockAttentionParams& p, const AttentionTask& task)
      : start(static_cast<int>(p.kv_start[task.sequence])) {
    const int64_t n = p.n_keys[task.sequence];
    keys = static_cast<int>(n);
    if (p.key_limit == nullptr) return;
    int most = 0;
    for (int r = thread_index() % 32; r < task.count; r += 32) {
      most = Largest()(most, static_cast<int>(limit_of(p, task.query_of(r), n)));
    }
    keys = warp_reduce(most, Largest());
  }
};

// What a block writes down before its loop and reads again in it: registers are dearer there than
// shared memory.
struct LoopState {
  AttentionTask task;
  int start, keys;  // the key source
};

// Begins to copy key tile `number` into shared memory; keys that no row may look at become zeros.
template <class S>
DPAD_DEVICE void load_tile(const BlockAttentionParams& p, const LoopState& loop, int number,
                           unsigned char* shared) {
  using T = typename S::T;
  constexpr int kChunks = S::kRowBytes / 16;
  static_assert(S::kBlock % kChunks == 0);  // every thread keeps to its chunk of the rows
  const int stage = number % kStages, chunk = thread_index() % kChunks;
  unsigned char* keys = shared + stage * 2 * S::kTileBytes;
  const int keys_end = loop.keys, head = loop.task.kv_head;
  const T* k = static_cast<const T*>(p.k_cache) + loop.start * p.k_slot_stride +
               head * p.k_head_stride + chunk * 8;
  const T* v = static_cast<const T*>(p.v_cache) + loop.start * p.v_slot_stride +
               head * p.v_head_stride + chunk * 8;
  const bool* mask = p.key_mask == nullptr ? nullptr : p.key_mask + loop.start;
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
