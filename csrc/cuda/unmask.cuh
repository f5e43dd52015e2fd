// Commits tokens by rule. One block takes one sequence; nothing depends on the order of its
// threads.
#pragma once

#include "core/commit_rule.h"
#include "core/rows.h"
#include "cuda/block.cuh"
#include "params.h"

namespace dpad::cuda {

inline constexpr int kRanked = 1024;  // logit rows of a sequence that are ranked in shared memory

// What a block finds out about its sequence before it writes anything.
struct Candidates {
  bool invalid = false, nan = false;
  int64_t count = 0, last = -1;  // eligible positions; largest position
};

DPAD_DEVICE bool eligible(const UnmaskParams& p, const int64_t* canvas, int64_t i) {
  return canvas[p.position[i]] == p.mask_id;
}

DPAD_DEVICE Candidates look_at_rows(const UnmaskParams& p, const int64_t* canvas, int64_t begin,
                                    int64_t end, int64_t length) {
  Candidates found;
  found.invalid = begin < 0 || end < begin || end > p.rows || !inside(length, p.canvas_stride + 1);
  if (!found.invalid) {
    for (int64_t i = begin + thread_index(); i < end; i += kThreads) {
      const int64_t position = p.position[i];
      if (!inside(position, length) || p.token[i] == p.mask_id) {
        found.invalid = true;
        continue;
      }
      found.last = position > found.last ? position : found.last;
      if (!eligible(p, canvas, i)) continue;
      ++found.count;
      found.nan = found.nan || p.score[i] != p.score[i];
    }
  }
  found.invalid = any_in_block(found.invalid);
  found.nan = any_in_block(found.nan);
  found.count = block_reduce(found.count, Sum());
  found.last = block_reduce(found.last, Largest());
  return found;
}

// order[rank] = the eligible row of that rank, counted from `begin`: a stable sort by counting.
DPAD_DEVICE void rank_rows(const UnmaskParams& p, const int64_t* canvas, int64_t begin, int64_t end,
                           int32_t* order) {
  const bool low_first = ascending(p.rule);
  for (int64_t i = begin + thread_index(); i < end; i += kThreads) {
    if (!eligible(p, canvas, i)) continue;
    const double own = p.score[i];
    int64_t rank = 0;
    for (int64_t j = begin; j < end; ++j) {
      const double other = p.score[j];
      const bool before = low_first ? other < own : other > own;
      if ((before || (other == own && j < i)) && eligible(p, canvas, j)) ++rank;
    }
    order[rank] = static_cast<int32_t>(i - begin);
  }
}

// The first target that still holds a mask, or `behind` them all.
DPAD_DEVICE int64_t first_mask(const UnmaskParams& p, const int64_t* canvas, int64_t begin,
                               int64_t end, int64_t behind) {
  int64_t first = behind;
  for (int64_t i = begin + thread_index(); i < end; i += kThreads) {
    if (eligible(p, canvas, i) && p.position[i] < first) first = p.position[i];
  }
  return -block_reduce(-first, Largest());
}

// Whether one of the targets before `until` is an end id.
DPAD_DEVICE bool holds_end(const UnmaskParams& p, const int64_t* canvas, int64_t begin, int64_t end,
                           int64_t until) {
  bool found = false;
  for (int64_t i = begin + thread_index(); i < end; i += kThreads) {
    if (p.position[i] >= until) continue;
    for (int64_t e = 0; e < p.end_count; ++e) {
      found = found || canvas[p.position[i]] == p.end_ids[e];
    }
  }
  return any_in_block(found);
}

// `scratch`, [logit rows], is for sequences of more than kRanked logit rows and may else be null. A
// canvas row out of range is skipped: there is no status to report it in.
DPAD_KERNEL(kThreads, 4) unmask_kernel(const UnmaskParams p, int32_t* scratch) {
  DPAD_SHARED int32_t ranked[kRanked];
  const int64_t b = block_x(), row = p.canvas_row[b];
  if (!inside(row, p.canvas_rows)) return;
  const int64_t begin = p.l_offsets[b], end = p.l_offsets[b + 1], length = p.length[b];
  int64_t* canvas = p.canvas + row * p.canvas_stride;
  const int64_t now = p.forward[row];
  const Candidates found = look_at_rows(p, canvas, begin, end, length);
  const auto report = [&](SequenceStatus status) {
    if (thread_index() == 0) p.status[row] = static_cast<int64_t>(status);
  };
  if (thread_index() == 0) p.forward[row] = now + 1;
  if (found.invalid) return report(SequenceStatus::kInvalid);
  if (begin == end) return report(SequenceStatus::kRunning);  // nothing predicted or finished
  if (found.nan) return report(SequenceStatus::kNaN);

  int32_t* order = end - begin <= kRanked ? ranked : scratch + begin;
  rank_rows(p, canvas, begin, end, order);
  block_sync();
  const auto score = [&](int64_t rank) { return p.score[begin + order[rank]]; };
  const int64_t n = found.count;
  const int64_t m = commits(p.rule, n, p.rule_value[b], p.quota[b], score);
  for (int64_t j = thread_index(); j < m; j += kThreads) {
    const int64_t i = begin + order[j], at = row * p.canvas_stride + p.position[i];
    p.canvas[at] = p.token[i];
    p.committed_at[at] = now;
    p.committed[at] = p.probability[i];
  }
  if (thread_index() == 0) p.masks_left[row] = n - m;
  block_sync();  // the canvas is written
  const auto status = m < n ? SequenceStatus::kRunning : SequenceStatus::kBlockDone;
  const bool looks = p.early_stop == Stop::kText || (p.early_stop == Stop::kBlock && m == n);
  if (!looks) return report(status);
  const int64_t until = first_mask(p, canvas, begin, end, found.last + 1);
  if (!holds_end(p, canvas, begin, end, until)) return report(status);
  report(SequenceStatus::kFinished);
  if (thread_index() == 0) p.masks_left[row] = 0;
  for (int64_t i = until + thread_index(); i < length; i += kThreads) {
    if (canvas[i] == p.mask_id) canvas[i] = p.fill_id;
  }
}

}  // namespace dpad::cuda
