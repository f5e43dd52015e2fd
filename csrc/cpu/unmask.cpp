#include "cpu/unmask.h"

#include <algorithm>
#include <cmath>

#include "core/commit_rule.h"

namespace dpad::cpu {
namespace {

// Whether one of the targets before `until` is an end id.
bool holds_end(const UnmaskParams& p, const int64_t* canvas, int64_t begin, int64_t end,
               int64_t until) {
  for (int64_t i = begin; i < end; ++i) {
    if (p.position[i] >= until) continue;
    const int64_t* last = p.end_ids + p.end_count;
    if (std::find(p.end_ids, last, canvas[p.position[i]]) != last) return true;
  }
  return false;
}

void fill_tail(const UnmaskParams& p, int64_t* canvas, int64_t from, int64_t to) {
  for (int64_t i = from; i < to; ++i) {
    if (canvas[i] == p.mask_id) canvas[i] = p.fill_id;
  }
}

void unmask_sequence(const UnmaskParams& p, int64_t b, int64_t* order) {
  const int64_t row = p.canvas_row[b];
  const int64_t begin = p.l_offsets[b], end = p.l_offsets[b + 1];
  int64_t* canvas = p.canvas + row * p.canvas_stride;
  const int64_t now = p.forward[row]++;
  if (begin == end) {  // a pass that predicts nothing finishes nothing
    p.status[row] = static_cast<int64_t>(SequenceStatus::kRunning);
    return;
  }

  int64_t n = 0, last = -1;
  for (int64_t i = begin; i < end; ++i) {
    last = std::max(last, p.position[i]);
    if (canvas[p.position[i]] != p.mask_id) continue;
    if (std::isnan(p.score[i])) {
      p.status[row] = static_cast<int64_t>(SequenceStatus::kNaN);
      return;
    }
    order[n++] = i;
  }
  std::stable_sort(order, order + n, [&](int64_t a, int64_t c) {
    return ascending(p.rule) ? p.score[a] < p.score[c] : p.score[a] > p.score[c];
  });
  const auto score = [&](int64_t rank) { return p.score[order[rank]]; };
  const int64_t m = commits(p.rule, n, p.rule_value[b], p.quota[b], score);
  for (int64_t j = 0; j < m; ++j) {
    const int64_t position = p.position[order[j]];
    canvas[position] = p.token[order[j]];
    p.committed_at[row * p.canvas_stride + position] = now;
    p.committed[row * p.canvas_stride + position] = p.probability[order[j]];
  }
  int64_t first_mask = last + 1;  // of the targets
  for (int64_t j = m; j < n; ++j) first_mask = std::min(first_mask, p.position[order[j]]);
  p.masks_left[row] = n - m;
  SequenceStatus status = m == n ? SequenceStatus::kBlockDone : SequenceStatus::kRunning;
  const bool looks = p.early_stop == Stop::kText || (p.early_stop == Stop::kBlock && m == n);
  if (looks && holds_end(p, canvas, begin, end, first_mask)) {
    status = SequenceStatus::kFinished;
    fill_tail(p, canvas, first_mask, p.length[b]);
    p.masks_left[row] = 0;
  }
  p.status[row] = static_cast<int64_t>(status);
}

}  // namespace

int64_t unmask_scratch(const UnmaskParams& p) {
  int64_t rows = 0;  // of the longest block
  for (int64_t b = 0; b < p.batch; ++b) rows = std::max(rows, p.l_offsets[b + 1] - p.l_offsets[b]);
  return rows * static_cast<int64_t>(sizeof(int64_t));
}

void unmask(const UnmaskParams& p, void* scratch) {
  for (int64_t b = 0; b < p.batch; ++b) unmask_sequence(p, b, static_cast<int64_t*>(scratch));
}

}  // namespace dpad::cpu
