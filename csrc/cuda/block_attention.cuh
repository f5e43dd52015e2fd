// Attention on tensor cores, for 16-bit elements and head_dim 64 or 128. A block takes a tile of
// packed rows of one key/value head and one part of the keys; its warps divide the tile's rows and,
// where these are few, the keys of every key tile. A second kernel merges the parts in their order.
#pragma once

#include "cuda/block_attention_rows.cuh"
#include "cuda/rows.cuh"

namespace dpad::cuda {

template <class S>
DPAD_DEVICE void write_nan(const BlockAttentionParams& p, const AttentionTask& task) {
  using T = typename S::T;
  for (int i = thread_index(); i < task.count * S::kDim; i += S::kBlock) {
    const int r = i / S::kDim, d = i % S::kDim;
    static_cast<T*>(p.out)[(task.query_of(r) * p.num_heads + task.head_of(r)) * S::kDim + d] =
        from_float<T>(NAN);
  }
}

// The block's part of the keys, tile by tile.
template <class S>
DPAD_DEVICE void attend(const BlockAttentionParams& p, const AttentionTask& task,
                        unsigned char* shared, LoopState& loop, AttentionRows<S>& rows) {
  const KeySource source(p, task);
  if (thread_index() == 0) loop = {task, source.start, source.keys};
  block_sync();
  const KeyRange range = split_range(source.keys, task.splits, task.split);
  if (range.begin < range.end) load_tile<S>(p, loop, range.begin, shared);
  commit_copies();
  rows.begin(p, task);
  for (int number = range.begin; number < range.end; ++number) {
    if (number + 1 < range.end) load_tile<S>(p, loop, number + 1, shared);
    commit_copies();
    wait_copies<kStages - 1>();
    block_sync();  // the tile of every thread is there
    rows.step(number, shared, p.scale * kLog2E);
    block_sync();  // the tile has been used
  }
  rows.finish();
}

// The rows of the warps that shared the keys of a tile are reduced in the first of them, by way of
// shared memory.
template <class S>
DPAD_DEVICE void reduce_across_warps(const WarpPlace& place, int count, float* exchange,
                                     AttentionRows<S>& rows) {
  if (place.parts == 1) return;
  const int size = (count + 15) / 16 * 16 * S::kPitch;
  if (place.part > 0 && place.part < place.parts) {
    rows.store(place, exchange + (place.part - 1) * size);
  }
  block_sync();
  if (place.part > 0) return;
  for (int i = 0; i + 1 < place.parts; ++i) rows.add(place, exchange + i * size);
}

// Blocks [kv heads x attention_blocks()], the heads together, so that the blocks without work come
// last. `scratch` holds kPart floats for every one of the `parts` of every kv head.
template <class S>
DPAD_KERNEL(S::kBlock, 2)
block_attention_kernel(const BlockAttentionParams p, int parts, float* scratch) {
  DPAD_SHARED LoopState loop;
  const auto heads = static_cast<unsigned>(p.num_kv_heads), block = unsigned(block_x());
  const AttentionTask found =
      find_task(p, parts, static_cast<int>(block / heads), static_cast<int>(block % heads));
  if (found.sequence < 0) return;
  if (!has_keys(p, found.sequence)) return write_nan<S>(p, found);
  auto* shared = static_cast<unsigned char*>(dynamic_shared());
  AttentionRows<S> rows;
  attend<S>(p, found, shared, loop, rows);

  const AttentionTask& task = loop.task;
  const WarpPlace place = warp_place(task.count, thread_index_again() / 32);
  reduce_across_warps<S>(place, task.count, reinterpret_cast<float*>(shared), rows);
  if (place.part > 0) return;
  if (task.splits == 1) {
    rows.write(p, task, place);
  } else {
    const int64_t part = int64_t{task.part} * p.num_kv_heads + task.kv_head;
    rows.store(place, scratch + part * S::kPart);
  }
}

// A warp takes the row of one query and head: the parts of one that has several become its result.
template <class S>
DPAD_DEVICE void merge_row(const BlockAttentionParams& p, int parts, const float* scratch,
                           int64_t query, int head) {
  using T = typename S::T;
  constexpr int kWidth = S::kDim / 32;  // elements per lane
  const int group = group_of(p), lane = thread_index() % 32;
  const WorkPlace place = find_work(p, parts, [&](const SequenceWork&, const WorkPlace& s) {
    return query >= p.q_offsets[s.sequence] && query < p.q_offsets[s.sequence + 1];
  });
  if (place.sequence < 0 || place.splits == 1) return;
  const int row = static_cast<int>(query - p.q_offsets[place.sequence]) * group + head % group;
  const int64_t first = place.part + row / kTileRows * place.splits;
  const int64_t step = p.num_kv_heads * S::kPart;  // from one part to the next
  const float* from =
      scratch + first * step + int64_t{head / group} * S::kPart + row % kTileRows * S::kPitch;
  Pack<float, 2> mine{-INFINITY, 0.0f};  // peak and sum of the lane's part
  if (lane < place.splits) mine = read_pack<float, 2>(from + lane * step + S::kDim);
  const float peak = mine.at[0], sum = mine.at[1];
  const float weight = power_of_two(peak - softmax_base(warp_reduce(peak, Largest())));
  const float all = warp_reduce(sum * weight, Sum());
  Pack<float, kWidth> out{};
  DPAD_UNROLL_BY(8)
  for (int s = 0; s < place.splits; ++s) {
    const float factor = warp_from(weight, s);
    const auto part = read_pack<float, kWidth>(from + s * step + lane * kWidth);
    DPAD_UNROLL
    for (int i = 0; i < kWidth; ++i) out.at[i] += part.at[i] * factor;
  }
  Pack<T, kWidth> result;
  DPAD_UNROLL
  for (int i = 0; i < kWidth; ++i) {
    result.at[i] = from_float<T>(all == 0.0f ? 0.0f : out.at[i] / all);
  }
  T* to = static_cast<T*>(p.out) + (query * p.num_heads + head) * S::kDim;
  write_pack(to + lane * kWidth, result);
}

// A warp for each of the q_rows x num_heads rows.
template <class S>
DPAD_KERNEL(kThreads, 2)
block_attention_merge_kernel(const BlockAttentionParams p, int parts, const float* scratch) {
  const auto heads = static_cast<unsigned>(p.num_heads);
  const unsigned row = unsigned(block_x()) * (kThreads / 32) + thread_index() / 32;
  if (row / heads >= p.q_rows) return;
  merge_row<S>(p, parts, scratch, row / heads, static_cast<int>(row % heads));
}

// True when the kernels can serve this call: everything can be moved 16 bytes at a time.
inline bool block_attention_fits(const BlockAttentionParams& p) {
  return p.dtype != DType::kFloat32 && (p.head_dim == 64 || p.head_dim == 128) &&
         aligned(2, p.q, p.q_row_stride, p.q_head_stride) && aligned(2, p.out) &&
         aligned(2, p.k_cache, p.k_head_stride, p.k_slot_stride) &&
         aligned(2, p.v_cache, p.v_head_stride, p.v_slot_stride);
}

}  // namespace dpad::cuda
