// Bindings of the planning operators: suffix_table, transfer_schedule, suffix_sample, plan_pass.
#include <algorithm>

#include "core/plan.h"
#include "core/schedule.h"
#include "core/suffix.h"
#include "torch/checks.h"
#include "torch/ops.h"

namespace dpad {
namespace {

Tensor new_int64(int64_t size) { return torch::stable::empty({size}, ScalarType::Long); }

Tensor to_tensor(const std::vector<int64_t>& values) {
  Tensor t = new_int64(static_cast<int64_t>(values.size()));
  std::copy(values.begin(), values.end(), t.mutable_data_ptr<int64_t>());
  return t;
}

SuffixSpec make_spec(const Checks& check, const std::string& kind, const std::string& grid,
                     int64_t window, double decay, double scale, double count, int64_t near,
                     bool keep_last) {
  static const char* kinds[] = {"none", "all", "gaussian", "uniform", "window"};
  const auto* found = std::find(std::begin(kinds), std::end(kinds), kind);
  if (found == std::end(kinds)) {
    check.fail("argument 'kind' = \"" + kind +
               "\": expected none, all, gaussian, uniform or window");
  }
  if (grid != "repo" && grid != "paper") {
    check.fail("argument 'grid' = \"" + grid + "\": expected repo or paper");
  }
  SuffixSpec spec;
  spec.kind = static_cast<SuffixKind>(found - std::begin(kinds));
  spec.grid = grid == "repo" ? SuffixGrid::kRepo : SuffixGrid::kPaper;
  spec.window = window;
  spec.decay = decay;
  spec.scale = scale;
  spec.count = count;
  spec.near = near;
  spec.keep_last = keep_last;
  check.raise(validate(spec));
  return spec;
}

}  // namespace

Tensor suffix_table_op(std::string kind, std::string grid, int64_t window, double decay,
                       double scale, double count, int64_t near, int64_t length) {
  const Checks check("suffix_table");
  const SuffixSpec spec = make_spec(check, kind, grid, window, decay, scale, count, near, false);
  if (length < 0) check.raise({"length", "a count >= 0", -1, double(length)});
  const std::vector<uint64_t> table = suffix_table(spec, length);
  return to_tensor({table.begin(), table.end()});
}

Tensor transfer_schedule_op(int64_t masks, int64_t steps) {
  const Checks check("transfer_schedule");
  if (masks < 0) check.raise({"masks", "a count >= 0", -1, double(masks)});
  if (steps < 1) check.raise({"steps", "at least 1", -1, double(steps)});
  std::vector<int64_t> quota(steps);
  for (int64_t i = 0; i < steps; ++i) quota[i] = transfer_quota(masks, steps, i);
  return to_tensor(quota);
}

std::tuple<Tensor, Tensor> suffix_sample_op(const Tensor& row_key, const Tensor& block,
                                            const Tensor& redraw, const Tensor& end,
                                            const Tensor& total, int64_t seed, std::string kind,
                                            std::string grid, int64_t window, double decay,
                                            double scale, double count, int64_t near,
                                            bool keep_last, int64_t length) {
  const Checks check("suffix_sample");
  const SuffixSpec spec =
      make_spec(check, kind, grid, window, decay, scale, count, near, keep_last);
  const int64_t batch = row_key.dim() == 1 ? row_key.size(0) : -1;
  const Tensor keys = check.indices("row_key", row_key, batch);
  const Tensor blocks = check.indices("block", block, batch);
  const Tensor redraws = check.indices("redraw", redraw, batch);
  const Tensor ends = check.indices("end", end, batch);
  const Tensor totals = check.indices("total", total, batch);
  if (length < 0) check.raise({"length", "a count >= 0", -1, double(length)});
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t remaining = int64_data(totals)[b] - int64_data(ends)[b];
    if (remaining < 0 || remaining > length) {
      check.raise({"total", "end plus a count in [0, length]", b, double(int64_data(totals)[b])});
    }
  }
  Tensor kept = torch::stable::full({batch, length}, -1, ScalarType::Long);
  Tensor kept_count = new_int64(batch);
  const std::vector<uint64_t> table = suffix_table(spec, length);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t e = int64_data(ends)[b];
    int64_t* row = kept.mutable_data_ptr<int64_t>() + b * length;
    const int64_t n = sample_suffix(spec, table, seed, int64_data(keys)[b], int64_data(blocks)[b],
                                    int64_data(redraws)[b], int64_data(totals)[b] - e, row);
    for (int64_t i = 0; i < n; ++i) row[i] += e;
    kept_count.mutable_data_ptr<int64_t>()[b] = n;
  }
  return {kept, kept_count};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> plan_pass_op(
    const Tensor& start, const Tensor& end, const Tensor& kept, const Tensor& kept_count,
    const Tensor& scope, int64_t shift) {
  const Checks check("plan_pass");
  const int64_t batch = start.dim() == 1 ? start.size(0) : -1;
  const Tensor starts = check.indices("start", start, batch);
  const Tensor ends = check.indices("end", end, batch);
  const Tensor counts = check.indices("kept_count", kept_count, batch);
  const Tensor scopes = check.indices("scope", scope, batch);
  check.tensor("kept", kept, ScalarType::Long, {batch, -1});
  const Tensor positions = torch::stable::contiguous(kept);
  const PlanInput input{int64_data(starts),
                        int64_data(ends),
                        int64_data(positions),
                        positions.size(1),
                        int64_data(counts),
                        int64_data(scopes),
                        batch,
                        shift};
  check.raise(validate(input));
  const Plan plan = plan_pass(input);
  return {to_tensor(plan.slot),     to_tensor(plan.position),  to_tensor(plan.q_offsets),
          to_tensor(plan.n_keys),   to_tensor(plan.logit_row), to_tensor(plan.logit_position),
          to_tensor(plan.l_offsets)};
}

}  // namespace dpad
