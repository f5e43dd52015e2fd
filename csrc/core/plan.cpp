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
  const bool earlier = scope == Scope::kAll && in.first[b] < s;
  // A predecessor that joins is written again.
  const int64_t before = std::max<int64_t>(s - in.shift * in.predecessor[b], 0);
  const int64_t from = earlier ? in.first[b] : before;
  return {from, scope == Scope::kBlock ? e : e + in.kept_count[b]};
}

// `first`: where the kept positions of sequence b begin.
Error validate_kept(const PlanInput& in, int64_t b, int64_t first) {
  if (in.kept_count[b] < 0 || in.kept_count[b] > in.kept_total - first)
    return {"kept_count", "counts >= 0 that add up to the length of kept", b,
            double(in.kept_count[b])};
  const int64_t* kept = in.kept + first;
  for (int64_t i = 0; i < in.kept_count[b]; ++i) {
    const int64_t above = i == 0 ? in.end[b] : kept[i - 1] + 1;
    if (kept[i] < above || kept[i] >= kMaxPosition)
      return {"kept", "ascending positions behind the block, below 2^40", first + i,
              double(kept[i])};
  }
  return {};
}

Error validate_sequence(const PlanInput& in, int64_t b, int64_t kept) {
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
  if (in.predecessor[b] != 0 && in.predecessor[b] != 1)
    return {"predecessor", "0 or 1", b, double(in.predecessor[b])};
  if (const Error error = validate_kept(in, b, kept)) return error;
  if (in.unseen[b] < 0 || in.unseen[b] > computed_slots(in, b).from)
    return {"unseen", "a count of slots before the first one that is computed", b,
            double(in.unseen[b])};
  return {};
}

// An empty plan whose vectors need not grow.
Plan with_room(const PlanInput& in) {
  int64_t rows = 0, logit_rows = 0;
  for (int64_t b = 0; b < in.batch; ++b) {
    const SlotRange slots = computed_slots(in, b);
    rows += slots.to - slots.from;
    logit_rows += in.end[b] - in.first_target[b];
  }
  Plan plan;
  plan.slot.reserve(rows);
  plan.position.reserve(rows);
  if (in.block_length > 0) plan.key_limit.reserve(rows);
  plan.logit_row.reserve(logit_rows);
  plan.logit_position.reserve(logit_rows);
  for (auto* line : {&plan.q_offsets, &plan.l_offsets, &plan.n_keys}) line->reserve(in.batch + 1);
  return plan;
}

}  // namespace

Error validate(const PlanInput& in) {
  if (in.shift != 0 && in.shift != 1) return {"shift", "0 or 1", -1, double(in.shift)};
  if (in.block_length < 0 || in.block_length > kMaxPosition)
    return {"block_length", "a length in [0, 2^40]", -1, double(in.block_length)};
  int64_t rows = 0, kept = 0;
  for (int64_t b = 0; b < in.batch; ++b) {
    if (const Error error = validate_sequence(in, b, kept)) return error;
    const SlotRange slots = computed_slots(in, b);
    rows += slots.to - slots.from;
    kept += in.kept_count[b];
    if (rows > kMaxPassRows)
      return {"end", "a pass of at most 2^24 rows up to this sequence", b, double(in.end[b])};
  }
  if (kept != in.kept_total)
    return {"kept", "as many positions as kept_count adds up to", -1, double(in.kept_total)};
  return {};
}

Plan plan_pass(const PlanInput& in) {
  Plan plan = with_room(in);
  plan.q_offsets.push_back(0);
  plan.l_offsets.push_back(0);
  const int64_t* kept = in.kept;
  for (int64_t b = 0; b < in.batch; ++b) {
    const int64_t e = in.end[b], n = e + in.kept_count[b], unseen = in.unseen[b];
    const SlotRange slots = computed_slots(in, b);
    const auto first_row = static_cast<int64_t>(plan.slot.size());
    for (int64_t slot = slots.from; slot < slots.to; ++slot) {
      const int64_t position = slot < e ? slot : kept[slot - e];
      plan.slot.push_back(slot - unseen);
      plan.position.push_back(position);
      if (in.block_length == 0) continue;
      const int64_t end_of_block = (position / in.block_length + 1) * in.block_length;
      plan.key_limit.push_back(std::min(n, end_of_block) - unseen);
    }
    for (int64_t position = in.first_target[b]; position < e; ++position) {
      plan.logit_row.push_back(first_row + std::max<int64_t>(position - in.shift - slots.from, 0));
      plan.logit_position.push_back(position);
    }
    plan.q_offsets.push_back(static_cast<int64_t>(plan.slot.size()));
    plan.l_offsets.push_back(static_cast<int64_t>(plan.logit_row.size()));
    plan.n_keys.push_back(n - unseen);
    kept += in.kept_count[b];
  }
  return plan;
}

}  // namespace dpad
