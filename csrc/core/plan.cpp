#include "core/plan.h"

#include <algorithm>

#include "core/names.h"

namespace dpad {
namespace {

// The slots that a pass computes of sequence b.
struct SlotRange {
  int64_t from, to;
};

SlotRange computed_slots(const PlanInput& in, int64_t b) {
  const int64_t s = in.start[b], e = in.end[b];
  const auto scope = static_cast<Scope>(in.scope[b]);
  // The predecessor of the block joins every pass of a shift model, and is written again.
  const bool earlier = scope == Scope::kAll && in.first[b] < s;
  const int64_t from = earlier ? in.first[b] : std::max<int64_t>(s - in.shift, 0);
  return {from, scope == Scope::kBlock ? e : e + in.kept_count[b]};
}

Error validate_kept(const PlanInput& in, int64_t b) {
  if (in.kept_count[b] < 0 || in.kept_count[b] > in.kept_stride)
    return {"kept_count", "a count in [0, kept.size(1)]", b, double(in.kept_count[b])};
  const int64_t* kept = in.kept + b * in.kept_stride;
  for (int64_t i = 0; i < in.kept_count[b]; ++i) {
    const int64_t above = i == 0 ? in.end[b] : kept[i - 1] + 1;
    if (kept[i] < above || kept[i] >= kMaxPosition)
      return {"kept", "ascending positions behind the block, below 2^40", b * in.kept_stride + i,
              double(kept[i])};
  }
  return {};
}

Error validate_sequence(const PlanInput& in, int64_t b) {
  const int64_t s = in.start[b], e = in.end[b];
  if (s < 0 || s >= kMaxPosition) return {"start", "a position in [0, 2^40)", b, double(s)};
  if (e <= s || e > kMaxPosition)
    return {"end", "a position above start, at most 2^40", b, double(e)};
  if (in.scope[b] < 0 || in.scope[b] >= count_of(kScopeNames))
    return {"scope", "0, 1 or 2", b, double(in.scope[b])};
  if (in.first[b] < 0 || in.first[b] > s)
    return {"first", "a slot in [0, start]", b, double(in.first[b])};
  if (in.first_target[b] < s || in.first_target[b] > e)
    return {"first_target", "a position in [start, end]", b, double(in.first_target[b])};
  return validate_kept(in, b);
}

}  // namespace

Error validate(const PlanInput& in) {
  if (in.shift != 0 && in.shift != 1) return {"shift", "0 or 1", -1, double(in.shift)};
  if (in.block_length < 0 || in.block_length > kMaxPosition)
    return {"block_length", "a length in [0, 2^40]", -1, double(in.block_length)};
  int64_t rows = 0;
  for (int64_t b = 0; b < in.batch; ++b) {
    if (const Error error = validate_sequence(in, b)) return error;
    const SlotRange slots = computed_slots(in, b);
    rows += slots.to - slots.from;
    if (rows > kMaxPassRows)
      return {"end", "a pass of at most 2^24 rows up to this sequence", b, double(in.end[b])};
  }
  return {};
}

Plan plan_pass(const PlanInput& in) {
  Plan plan;
  plan.q_offsets.push_back(0);
  plan.l_offsets.push_back(0);
  for (int64_t b = 0; b < in.batch; ++b) {
    const int64_t e = in.end[b], n = e + in.kept_count[b];
    const SlotRange slots = computed_slots(in, b);
    const auto first_row = static_cast<int64_t>(plan.slot.size());
    for (int64_t slot = slots.from; slot < slots.to; ++slot) {
      const int64_t position = slot < e ? slot : in.kept[b * in.kept_stride + slot - e];
      plan.slot.push_back(slot);
      plan.position.push_back(position);
      if (in.block_length == 0) continue;
      plan.key_limit.push_back(std::min(n, (position / in.block_length + 1) * in.block_length));
    }
    for (int64_t position = in.first_target[b]; position < e; ++position) {
      const int64_t predictor = std::max<int64_t>(position - in.shift, 0);
      plan.logit_row.push_back(first_row + predictor - slots.from);
      plan.logit_position.push_back(position);
    }
    plan.q_offsets.push_back(static_cast<int64_t>(plan.slot.size()));
    plan.l_offsets.push_back(static_cast<int64_t>(plan.logit_row.size()));
    plan.n_keys.push_back(n);
  }
  return plan;
}

}  // namespace dpad
