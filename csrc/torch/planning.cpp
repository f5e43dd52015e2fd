// Bindings of the planning operators: suffix_table, transfer_schedule, suffix_sample, plan_pass.
#include <algorithm>

#include "core/names.h"
#include "core/plan.h"
#include "core/schedule.h"
#include "core/suffix.h"
#include "torch/checks.h"
#include "torch/ops.h"

namespace dpad {
namespace {

Tensor to_tensor(const Checks& check, const std::vector<int64_t>& values) {
  Tensor t = check.empty({static_cast<int64_t>(values.size())}, ScalarType::Long);
  std::copy(values.begin(), values.end(), t.mutable_data_ptr<int64_t>());
  return t;
}

// One line for each of several vectors of one length.
Tensor to_tensor(const Checks& check, std::initializer_list<const std::vector<int64_t>*> lines) {
  const auto width = static_cast<int64_t>((*lines.begin())->size());
  Tensor t = check.empty({static_cast<int64_t>(lines.size()), width}, ScalarType::Long);
  int64_t* out = t.mutable_data_ptr<int64_t>();
  for (const auto* line : lines) out = std::copy(line->begin(), line->end(), out);
  return t;
}

SuffixSpec make_spec(const Checks& check, const std::string& kind, const std::string& grid,
                     int64_t window, double decay, double scale, double count, int64_t near,
                     bool keep_last) {
  const int64_t number = number_of(kSuffixNames, kind.c_str());
  if (number < 0) {
    check.fail("argument 'kind' = \"" + kind +
               "\": expected none, all, gaussian, uniform or window");
  }
  if (grid != "repo" && grid != "paper") {
    check.fail("argument 'grid' = \"" + grid + "\": expected repo or paper");
  }
  SuffixSpec spec;
  spec.kind = static_cast<SuffixKind>(number);
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

Tensor suffix_table_op(const Text& kind, const Text& grid, int64_t window, double decay,
                       double scale, double count, int64_t near, int64_t length) {
  const Checks check("suffix_table");
  const SuffixSpec spec =
      make_spec(check, kind.value, grid.value, window, decay, scale, count, near, false);
  check.raise(validate_length("length", length));
  const std::vector<uint64_t> table = suffix_table(spec, length);
  return to_tensor(check, {table.begin(), table.end()});
}

Tensor transfer_schedule_op(int64_t masks, int64_t steps) {
  const Checks check("transfer_schedule");
  if (masks < 0) check.raise({"masks", "a count >= 0", -1, double(masks)});
  if (steps < 1 || steps > kMaxSteps) {
    check.raise({"steps", "a count in [1, 2^24]", -1, double(steps)});
  }
  Tensor quota = check.empty({steps}, ScalarType::Long);
  for (int64_t i = 0; i < steps; ++i) {
    quota.mutable_data_ptr<int64_t>()[i] = transfer_quota(masks, steps, i);
  }
  return quota;
}

std::tuple<Tensor, Tensor> suffix_sample_op(const Tensor& seed, const Tensor& row_key,
                                            const Tensor& block, const Tensor& redraw,
                                            const Tensor& end, const Tensor& total,
                                            const Text& kind, const Text& grid, int64_t window,
                                            double decay, double scale, double count, int64_t near,
                                            bool keep_last, int64_t length) {
  const Checks check("suffix_sample");
  const SuffixSpec spec =
      make_spec(check, kind.value, grid.value, window, decay, scale, count, near, keep_last);
  const Tensor seeds = check.indices("seed", seed, -1);
  const int64_t batch = seeds.size(0);
  const Tensor keys = check.indices("row_key", row_key, batch);
  const Tensor blocks = check.indices("block", block, batch);
  const Tensor redraws = check.indices("redraw", redraw, batch);
  const Tensor ends = check.indices("end", end, batch);
  const Tensor totals = check.indices("total", total, batch);
  check.raise(validate_length("length", length));
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t e = int64_data(ends)[b], all = int64_data(totals)[b];
    if (e < 0) check.raise({"end", "a position >= 0", b, double(e)});
    if (all < e || all - e > length) {
      check.raise({"total", "end plus a count in [0, length]", b, double(all)});
    }
  }
  Tensor kept = check.empty({batch, length}, ScalarType::Long);
  std::fill_n(kept.mutable_data_ptr<int64_t>(), kept.numel(), -1);
  Tensor kept_count = check.empty({batch}, ScalarType::Long);
  const std::vector<uint64_t> table = suffix_table(spec, length);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t e = int64_data(ends)[b];
    int64_t* row = kept.mutable_data_ptr<int64_t>() + b * length;
    const int64_t n =
        sample_suffix(spec, table, int64_data(seeds)[b], int64_data(keys)[b], int64_data(blocks)[b],
                      int64_data(redraws)[b], int64_data(totals)[b] - e, row);
    for (int64_t i = 0; i < n; ++i) row[i] += e;
    kept_count.mutable_data_ptr<int64_t>()[b] = n;
  }
  return {kept, kept_count};
}

PlanTensors plan_pass_op(const Tensor& start, const Tensor& end, const Tensor& kept,
                         const Tensor& kept_count, const Tensor& scope, const Tensor& first,
                         const Tensor& first_target, const Tensor& unseen,
                         const Tensor& predecessor, int64_t shift, int64_t block_length) {
  const Checks check("plan_pass");
  const Tensor starts = check.indices("start", start, -1);
  const int64_t batch = starts.size(0);
  const Tensor ends = check.indices("end", end, batch);
  const Tensor counts = check.indices("kept_count", kept_count, batch);
  const Tensor scopes = check.indices("scope", scope, batch);
  const Tensor firsts = check.indices("first", first, batch);
  const Tensor targets = check.indices("first_target", first_target, batch);
  const Tensor hidden = check.indices("unseen", unseen, batch);
  const Tensor joins = check.indices("predecessor", predecessor, batch);
  const Tensor positions = check.indices("kept", kept, -1);
  const PlanInput input{int64_data(starts),
                        int64_data(ends),
                        int64_data(positions),
                        positions.size(0),
                        int64_data(counts),
                        int64_data(scopes),
                        int64_data(firsts),
                        int64_data(targets),
                        int64_data(hidden),
                        int64_data(joins),
                        batch,
                        shift,
                        block_length};
  check.raise(validate(input));
  const Plan plan = plan_pass(input);
  const bool limited = block_length > 0;
  return {limited ? to_tensor(check, {&plan.slot, &plan.position, &plan.key_limit})
                  : to_tensor(check, {&plan.slot, &plan.position}),
          to_tensor(check, {&plan.logit_row, &plan.logit_position}),
          to_tensor(check, {&plan.q_offsets, &plan.l_offsets}), to_tensor(check, plan.n_keys)};
}

}  // namespace dpad
