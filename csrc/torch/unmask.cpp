#include <algorithm>
#include <limits>

#include "core/names.h"
#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {
namespace {

// The targets of one sequence lie below its length, and an eligible position stands there once: it
// would be counted and committed twice. `offsets` are the sequence's two.
template <class Eligible>
void check_targets(const Checks& check, const Tensor& position, const int64_t* offsets,
                   int64_t length, const Eligible& eligible) {
  const int64_t* positions = int64_data(position);
  std::vector<std::pair<int64_t, int64_t>> found;  // eligible position, logit row
  for (int64_t i = offsets[0]; i < offsets[1]; ++i) {
    if (positions[i] >= length) {
      check.raise({"position", "a position below the sequence's length", i, double(positions[i])});
    }
    if (eligible(positions[i])) found.emplace_back(positions[i], i);
  }
  std::sort(found.begin(), found.end());
  const auto same = [](const auto& a, const auto& b) { return a.first == b.first; };
  const auto twice = std::adjacent_find(found.begin(), found.end(), same);
  if (twice == found.end()) return;
  check.raise(
      {"position", "eligible positions that differ", twice[1].second, double(twice->first)});
}

}  // namespace

void unmask_op(const Tensor& canvas, const Tensor& committed_at, const Tensor& committed,
               const Tensor& masks_left, const Tensor& status, const Tensor& forward,
               const Tensor& canvas_row, const Tensor& l_offsets, const Tensor& position,
               const Tensor& token, const Tensor& score, const Tensor& probability,
               const Tensor& rule_value, const Tensor& quota, const Tensor& length,
               const Tensor& end_ids, int64_t rule, int64_t early_stop, int64_t mask_id,
               int64_t fill_id) {
  const Checks check("unmask_", canvas);
  check.tensor("canvas", canvas, ScalarType::Long, {-1, -1});
  const int64_t canvases = canvas.size(0), width = canvas.size(1);
  check.tensor("committed_at", committed_at, ScalarType::Long, {canvases, width});
  check.tensor("committed", committed, ScalarType::Double, {canvases, width});
  check.tensor("masks_left", masks_left, ScalarType::Long, {canvases});
  check.tensor("status", status, ScalarType::Long, {canvases});
  check.tensor("forward", forward, ScalarType::Long, {canvases});
  const std::initializer_list<Checks::Named> written = {
      {"canvas", canvas},       {"committed_at", committed_at},
      {"committed", committed}, {"masks_left", masks_left},
      {"status", status},       {"forward", forward}};
  for (const auto& [name, t] : written) {
    if (!t.is_contiguous()) check.fail(std::string("argument '") + name + "' is not contiguous");
  }
  check.disjoint(written, {{"canvas_row", canvas_row},
                           {"l_offsets", l_offsets},
                           {"position", position},
                           {"token", token},
                           {"score", score},
                           {"probability", probability},
                           {"rule_value", rule_value},
                           {"quota", quota},
                           {"length", length},
                           {"end_ids", end_ids}});
  const Tensor rows = check.indices("canvas_row", canvas_row, -1);
  const int64_t batch = rows.numel();
  check.range("canvas_row", rows, 0, canvases);
  check.distinct("canvas_row", rows);
  const Tensor positions = check.indices("position", position, -1);
  const int64_t logit_rows = positions.numel();
  const Tensor offsets = check.indices("l_offsets", l_offsets, batch + 1);
  check.offsets("l_offsets", offsets, logit_rows);
  const Tensor tokens = check.indices("token", token, logit_rows);
  check.tensor("score", score, ScalarType::Double, {logit_rows});
  check.tensor("probability", probability, ScalarType::Double, {logit_rows});
  check.tensor("rule_value", rule_value, ScalarType::Double, {batch});
  const Tensor quotas = check.indices("quota", quota, batch);
  const Tensor lengths = check.indices("length", length, batch);
  const Tensor ends = check.indices("end_ids", end_ids, -1);
  check.range("length", lengths, 0, width + 1);
  check.range("position", positions, 0, width);
  if (rule < 0 || rule >= count_of(kRuleNames)) {
    check.raise({"rule", "the number of a commit rule", -1, double(rule)});
  }
  if (early_stop < 0 || early_stop >= count_of(kStopNames)) {
    check.raise({"early_stop", "0 (never), 1 (block) or 2 (text)", -1, double(early_stop)});
  }
  for (int64_t i = 0; check.sees_values() && i < logit_rows; ++i) {
    if (int64_data(tokens)[i] == mask_id) {
      check.raise({"token", "a token that is not the mask", i, double(mask_id)});
    }
  }
  for (int64_t b = 0; check.sees_values() && b < batch; ++b) {
    const int64_t row = int64_data(rows)[b];
    if (int64_data(forward)[row] == std::numeric_limits<int64_t>::max()) {
      check.raise({"forward", "a number that can be raised", row, 0x1p63});
    }
    const int64_t* tokens_there = int64_data(canvas) + row * width;
    check_targets(check, positions, int64_data(offsets) + b, int64_data(lengths)[b],
                  [&](int64_t at) { return tokens_there[at] == mask_id; });
  }
  const Tensor scores = check.contiguous("score", score);
  const Tensor probabilities = check.contiguous("probability", probability);
  const Tensor amounts = check.contiguous("rule_value", rule_value);
  UnmaskParams p{};
  p.canvas = canvas.mutable_data_ptr<int64_t>();
  p.committed_at = committed_at.mutable_data_ptr<int64_t>();
  p.committed = committed.mutable_data_ptr<double>();
  p.masks_left = masks_left.mutable_data_ptr<int64_t>();
  p.status = status.mutable_data_ptr<int64_t>();
  p.forward = forward.mutable_data_ptr<int64_t>();
  p.canvas_stride = width;
  p.canvas_row = int64_data(rows);
  p.l_offsets = int64_data(offsets);
  p.position = int64_data(positions);
  p.token = int64_data(tokens);
  p.score = scores.const_data_ptr<double>();
  p.probability = probabilities.const_data_ptr<double>();
  p.rule_value = amounts.const_data_ptr<double>();
  p.quota = int64_data(quotas);
  p.length = int64_data(lengths);
  p.end_ids = int64_data(ends), p.end_count = ends.numel();
  p.batch = batch, p.mask_id = mask_id, p.fill_id = fill_id;
  p.canvas_rows = canvases, p.rows = logit_rows;
  p.rule = static_cast<Rule>(rule);
  p.early_stop = static_cast<Stop>(early_stop);
  run({check, canvas}, p);
}

}  // namespace dpad
