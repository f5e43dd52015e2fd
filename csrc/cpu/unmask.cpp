#include "cpu/unmask.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace dpad::cpu {
namespace {

// How many of the ranked candidates a rule accepts; `score` is in rank order.
int64_t accepted(Rule rule, const std::vector<double>& score, double amount) {
  const auto n = static_cast<int64_t>(score.size());
  int64_t m = 1;
  switch (rule) {
    case Rule::kThreshold:
      while (m < n && score[m] >= amount) ++m;
      return m;
    case Rule::kFactor:
      while (m < n && amount > 0 && (m + 2) * (1 - score[m]) <= amount) ++m;
      return m;
    case Rule::kFactorPublished:
      while (m < n && score[m] >= 1 - amount / (m + 2)) ++m;
      return m == n - 1 ? n : m;  // the released loop cannot tell a failure at the last candidate
    case Rule::kQuota:
      return n;
    case Rule::kEntropyBound: {
      // Entropy-bounded unmasking (arXiv 2505.24857): the sum of all committed entropies but the
      // largest stays within the bound. Scores ascend, so the largest is the newest.
      double smaller = score[0];
      while (m < n && smaller <= amount) smaller += score[m++];
      return m;
    }
    case Rule::kBelow:
      m = 0;
      while (m < n && score[m] < amount) ++m;
      return m;
  }
  return m;
}

bool holds_end(const UnmaskParams& p, const int64_t* canvas, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
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

void unmask_sequence(const UnmaskParams& p, int64_t b, std::vector<int64_t>& order,
                     std::vector<double>& score) {
  const int64_t row = p.canvas_row[b];
  const int64_t begin = p.l_offsets[b], end = p.l_offsets[b + 1];
  int64_t* canvas = p.canvas + row * p.canvas_stride;
  const int64_t now = p.forward[row]++;

  order.clear();
  int64_t last = -1;
  for (int64_t i = begin; i < end; ++i) {
    last = std::max(last, p.position[i]);
    if (canvas[p.position[i]] != p.mask_id) continue;
    if (std::isnan(p.score[i])) {
      p.status[row] = static_cast<int64_t>(SequenceStatus::kNaN);
      return;
    }
    order.push_back(i);
  }
  const bool ascending = p.rule == Rule::kEntropyBound || p.rule == Rule::kBelow;
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t c) {
    return ascending ? p.score[a] < p.score[c] : p.score[a] > p.score[c];
  });
  score.clear();
  for (const int64_t i : order) score.push_back(p.score[i]);
  const int64_t most = std::max<int64_t>(p.quota[b], 0);
  const int64_t m = order.empty() ? 0 : std::min(accepted(p.rule, score, p.amount[b]), most);
  for (int64_t j = 0; j < m; ++j) {
    const int64_t position = p.position[order[j]];
    canvas[position] = p.token[order[j]];
    p.committed_at[row * p.canvas_stride + position] = now;
    p.committed[row * p.canvas_stride + position] = p.probability[order[j]];
  }
  p.masks_left[row] = static_cast<int64_t>(order.size()) - m;
  SequenceStatus status = SequenceStatus::kRunning;
  if (p.masks_left[row] == 0) {
    status = SequenceStatus::kBlockDone;
    if (p.early_stop && holds_end(p, canvas, begin, end)) {
      status = SequenceStatus::kFinished;
      fill_tail(p, canvas, last + 1, p.length[b]);
    }
  }
  p.status[row] = static_cast<int64_t>(status);
}

}  // namespace

void unmask(const UnmaskParams& p) {
  std::vector<int64_t> order;
  std::vector<double> score;
  for (int64_t b = 0; b < p.batch; ++b) unmask_sequence(p, b, order, score);
}

}  // namespace dpad::cpu
