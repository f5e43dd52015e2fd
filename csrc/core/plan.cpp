#include "core/plan.h"

#include <algorithm>

namespace dpad {

Error validate(const PlanInput& in) {
  if (in.shift != 0 && in.shift != 1) return {"shift", "0 or 1", -1, double(in.shift)};
  for (int64_t b = 0; b < in.batch; ++b) {
    if (in.start[b] < 0) return {"start", "a position >= 0", b, double(in.start[b])};
    if (in.end[b] <= in.start[b]) return {"end", "a position above start", b, double(in.end[b])};
    if (in.scope[b] < 0 || in.scope[b] > 2) return {"scope", "0, 1 or 2", b, double(in.scope[b])};
    if (in.kept_count[b] < 0 || in.kept_count[b] > in.kept_stride)
      return {"kept_count", "a count in [0, kept.size(1)]", b, double(in.kept_count[b])};
    const int64_t* kept = in.kept + b * in.kept_stride;
    for (int64_t i = 0; i < in.kept_count[b]; ++i) {
      const int64_t above = i == 0 ? in.end[b] : kept[i - 1] + 1;
      if (kept[i] < above)
        return {"kept", "ascending positions behind the block", b * in.kept_stride + i,
                double(kept[i])};
    }
  }
  return {};
}

Plan plan_pass(const PlanInput& in) {
  Plan plan;
  plan.q_offsets.push_back(0);
  plan.l_offsets.push_back(0);
  for (int64_t b = 0; b < in.batch; ++b) {
    const int64_t s = in.start[b], e = in.end[b], n = e + in.kept_count[b];
    const auto scope = static_cast<Scope>(in.scope[b]);
    // The predecessor of the block joins every pass of a shift model, and is written again.
    const int64_t from = scope == Scope::kAll ? 0 : std::max<int64_t>(s - in.shift, 0);
    const int64_t to = scope == Scope::kBlock ? e : n;
    const auto first_row = static_cast<int64_t>(plan.slot.size());
    for (int64_t slot = from; slot < to; ++slot) {
      plan.slot.push_back(slot);
      plan.position.push_back(slot < e ? slot : in.kept[b * in.kept_stride + slot - e]);
    }
    for (int64_t position = s; position < e; ++position) {
      const int64_t predictor = std::max<int64_t>(position - in.shift, 0);
      plan.logit_row.push_back(first_row + predictor - from);
      plan.logit_position.push_back(position);
    }
    plan.q_offsets.push_back(static_cast<int64_t>(plan.slot.size()));
    plan.l_offsets.push_back(static_cast<int64_t>(plan.logit_row.size()));
    plan.n_keys.push_back(n);
  }
  return plan;
}

}  // namespace dpad
