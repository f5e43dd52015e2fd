#include <algorithm>
#include <utility>

#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {
namespace {

// Two rows that write one slot would leave what the last thread wrote. `places` are (slot of the
// arena, row).
void check_distinct(const Checks& check, std::vector<std::pair<int64_t, int64_t>>& places,
                    const int64_t* slots) {
  const auto below = [](const auto& a, const auto& b) { return a.first < b.first; };
  const auto not_above = [](const auto& a, const auto& b) { return a.first >= b.first; };
  // Passes lay their rows out in ascending slots: most are in order already.
  if (std::adjacent_find(places.begin(), places.end(), not_above) == places.end()) return;
  std::stable_sort(places.begin(), places.end(), below);
  const auto twice = std::adjacent_find(places.begin(), places.end(), not_above);
  if (twice == places.end()) return;
  const int64_t row = twice[1].second;
  check.fail("argument 'slot'[" + std::to_string(row) + "] = " + std::to_string(slots[row]) +
             ": slot " + std::to_string(twice->first) + " of the arena is written by row " +
             std::to_string(twice->second) + " too");
}

// Every slot that is written lies in the arena, and is written once.
void check_slots(const Checks& check, const Tensor& slots, const Tensor& offsets,
                 const Tensor& starts, int64_t arena) {
  const int64_t *slot = int64_data(slots), *offset = int64_data(offsets);
  std::vector<std::pair<int64_t, int64_t>> places;
  places.reserve(slots.numel());
  for (int64_t b = 0; b < starts.numel(); ++b) {
    const int64_t start = int64_data(starts)[b];
    for (int64_t row = offset[b]; row < offset[b + 1]; ++row) {
      if (slot[row] < 0) continue;
      if (slot[row] >= arena - start) {
        check.raise({"slot", "a slot of the arena behind kv_start", row, double(slot[row])});
      }
      places.emplace_back(start + slot[row], row);
    }
  }
  check_distinct(check, places, slot);
}

}  // namespace

Tensor rope_kv_write_op(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& q_position,
                        const Tensor& position, const Tensor& slot, const Tensor& q_offsets,
                        const Tensor& kv_start, const Tensor& cos, const Tensor& sin,
                        const Tensor& k_cache, const Tensor& v_cache, bool full_precision) {
  const Checks check("rope_kv_write_", q);
  const DType dtype = check.dtype("q", q);
  check.shape("q", q, {-1, -1, -1});
  const int64_t q_rows = q.size(0), heads = q.size(1), head_dim = q.size(2);
  check.shape("k", k, {-1, -1, head_dim});
  const int64_t rows = k.size(0), kv_heads = k.size(1);
  check.shape("v", v, {rows, kv_heads, head_dim});
  check.shape("k_cache", k_cache, {kv_heads, -1, head_dim});
  const int64_t arena = k_cache.size(1);
  check.shape("v_cache", v_cache, {kv_heads, arena, head_dim});
  check.same_dtype("k", k, q);
  check.same_dtype("v", v, q);
  check.same_dtype("k_cache", k_cache, q);
  check.same_dtype("v_cache", v_cache, q);
  check.tensor("cos", cos, ScalarType::Float, {-1, -1});
  check.tensor("sin", sin, ScalarType::Float, {cos.size(0), cos.size(1)});
  if (cos.size(1) > head_dim / 2) {
    check.raise({"cos", "at most head_dim / 2 columns", -1, double(cos.size(1))});
  }
  check.last_dim_contiguous("k_cache", k_cache);
  check.last_dim_contiguous("v_cache", v_cache);
  check.distinct_elements("k_cache", k_cache);
  check.distinct_elements("v_cache", v_cache);
  check.disjoint({{"k_cache", k_cache}, {"v_cache", v_cache}}, {{"q", q},
                                                                {"k", k},
                                                                {"v", v},
                                                                {"q_position", q_position},
                                                                {"position", position},
                                                                {"slot", slot},
                                                                {"q_offsets", q_offsets},
                                                                {"kv_start", kv_start},
                                                                {"cos", cos},
                                                                {"sin", sin}});
  const Tensor q_positions = check.indices("q_position", q_position, q_rows);
  const Tensor positions = check.indices("position", position, rows);
  const Tensor slots = check.indices("slot", slot, rows);
  const Tensor starts = check.indices("kv_start", kv_start, -1);
  const Tensor offsets = check.indices("q_offsets", q_offsets, starts.numel() + 1);
  check.range("q_position", q_positions, 0, cos.size(0));
  check.range("position", positions, 0, cos.size(0));
  check.range("slot", slots, -1, arena);
  check.range("kv_start", starts, 0, arena + 1);
  check.offsets("q_offsets", offsets, rows);
  if (check.sees_values()) check_slots(check, slots, offsets, starts, arena);

  const Tensor qc = check.rows_contiguous("q", q), kc = check.rows_contiguous("k", k),
               vc = check.rows_contiguous("v", v);
  const Tensor cosc = check.contiguous("cos", cos), sinc = check.contiguous("sin", sin);
  Tensor out = check.empty({q_rows, heads, head_dim}, q.scalar_type());
  RopeKvWriteParams p{};
  p.q = qc.const_data_ptr();
  p.k = kc.const_data_ptr();
  p.v = vc.const_data_ptr();
  p.q_row_stride = qc.stride(0), p.q_head_stride = qc.stride(1);
  p.k_row_stride = kc.stride(0), p.k_head_stride = kc.stride(1);
  p.v_row_stride = vc.stride(0), p.v_head_stride = vc.stride(1);
  p.q_position = int64_data(q_positions);
  p.position = int64_data(positions);
  p.slot = int64_data(slots);
  p.q_offsets = int64_data(offsets);
  p.kv_start = int64_data(starts);
  p.cos = cosc.const_data_ptr<float>();
  p.sin = sinc.const_data_ptr<float>();
  p.q_out = out.mutable_data_ptr();
  p.k_cache = k_cache.mutable_data_ptr();
  p.v_cache = v_cache.mutable_data_ptr();
  p.k_cache_head_stride = k_cache.stride(0), p.k_cache_slot_stride = k_cache.stride(1);
  p.v_cache_head_stride = v_cache.stride(0), p.v_cache_slot_stride = v_cache.stride(1);
  p.q_rows = q_rows, p.rows = rows, p.num_heads = heads, p.num_kv_heads = kv_heads;
  p.head_dim = head_dim, p.rotary_dim = 2 * cos.size(1);
  p.batch = starts.numel(), p.positions = cos.size(0), p.slots = arena;
  p.full_precision = full_precision;
  p.dtype = dtype;
  run({check, q}, p);
  return out;
}

}  // namespace dpad
