// Attention on tensor cores, for 16-bit elements and head_dim 64 or 128. A block takes a tile of
// packed rows of one key/value head and one part of the keys; warps divide the tile's rows (16
// each) and the keys of every key tile; the last block of a tile merges the parts in their order.
#pragma once

#include "cuda/block_attention_rows.cuh"
#include "cuda/rows.cuh"

namespace dpad::cuda {

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
                        unsigned char* shared, Notes& notes, AttentionRows<S>& rows) {
  const AttentionTask task = task_of(p, tile);
  const KeySource source(p, task);
  if (thread_index() == 0) {
    notes = {tile.sequence, tile.first, tile.count, source.row, source.keys};
  }
  block_sync();
  const KeyRange range = split_range(source.keys, splits, static_cast<int>(block_x()));
  if (range.begin < range.end) load_tile<S>(p, notes, range.begin, shared);
  commit_copies();
  rows.begin(p, task);
  for (int number = range.begin; number < range.end; ++number) {
    if (number + 1 < range.end) load_tile<S>(p, notes, number + 1, shared);
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
DPAD_KERNEL(S::kBlock, 2)
block_attention_kernel(const BlockAttentionParams p, int splits, float* parts, unsigned* tickets) {
  DPAD_SHARED Notes notes;
  const RowTile tile = find_tile(p, S::kRows, block_z());
  if (tile.sequence < 0) return;
  if (!has_keys(p, tile.sequence)) {
    if (block_x() == 0) write_rows<S>(p, task_of(p, tile), nullptr, 0);
    return;
  }
  auto* shared = static_cast<unsigned char*>(dynamic_shared());
  AttentionRows<S> rows;
  attend<S>(p, tile, splits, shared, notes, rows);

  auto* meeting = reinterpret_cast<float*>(shared);
  if (S::kKeyWarps > 1) {
    if (!rows.leads()) rows.store(meeting + (rows.key_part() - 1) * S::kPart);
    block_sync();
    if (rows.leads()) {
      for (int i = 0; i + 1 < S::kKeyWarps; ++i) rows.add(meeting + i * S::kPart);
    }
  }
  const AttentionTask task = task_of(p, {notes.sequence, notes.first, notes.count});
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
