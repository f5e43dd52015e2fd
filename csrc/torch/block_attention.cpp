#include "core/rows.h"
#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {

Tensor block_attention_op(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                          const Tensor& q_offsets, const Tensor& kv_start, const Tensor& n_keys,
                          double scale, const OptionalTensor& key_mask,
                          const OptionalTensor& key_limit) {
  const Checks check("block_attention", q);
  const DType dtype = check.dtype("q", q);
  check.shape("q", q, {-1, -1, -1});
  const int64_t rows = q.size(0), heads = q.size(1), head_dim = q.size(2);
  check.shape("k_cache", k_cache, {-1, -1, head_dim});
  const int64_t kv_heads = k_cache.size(0), slots = k_cache.size(1);
  check.shape("v_cache", v_cache, {kv_heads, slots, head_dim});
  check.same_dtype("k_cache", k_cache, q);
  check.same_dtype("v_cache", v_cache, q);
  check.last_dim_contiguous("k_cache", k_cache);
  check.last_dim_contiguous("v_cache", v_cache);
  if (kv_heads < 1 || heads % kv_heads != 0) {
    check.raise({"k_cache", "kv heads that divide the query heads", -1, double(kv_heads)});
  }
  const Tensor starts = check.indices("kv_start", kv_start, -1);
  const int64_t batch = starts.numel();
  const Tensor offsets = check.indices("q_offsets", q_offsets, batch + 1);
  const Tensor keys = check.indices("n_keys", n_keys, batch);
  check.range("kv_start", starts, 0, slots + 1);
  for (int64_t b = 0; check.sees_values() && b < batch; ++b) {
    const int64_t start = int64_data(starts)[b], n = int64_data(keys)[b];
    if (within_arena(start, n, slots)) continue;
    check.raise({"n_keys", "a count in [0, slots of the arena - kv_start]", b, double(n)});
  }
  check.offsets("q_offsets", offsets, rows);
  OptionalTensor mask, limit;
  if (key_mask) {
    check.tensor("key_mask", *key_mask, ScalarType::Bool, {slots});
    mask = check.rows_contiguous("key_mask", *key_mask);
  }
  if (key_limit) limit = check.indices("key_limit", *key_limit, rows);

  const Tensor qc = check.rows_contiguous("q", q);
  Tensor out = check.empty({rows, heads, head_dim}, q.scalar_type());
  BlockAttentionParams p{};
  p.q = qc.const_data_ptr();
  p.k_cache = k_cache.const_data_ptr();
  p.v_cache = v_cache.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.q_row_stride = qc.stride(0), p.q_head_stride = qc.stride(1);
  p.k_head_stride = k_cache.stride(0), p.k_slot_stride = k_cache.stride(1);
  p.v_head_stride = v_cache.stride(0), p.v_slot_stride = v_cache.stride(1);
  p.q_offsets = int64_data(offsets);
  p.kv_start = int64_data(starts);
  p.n_keys = int64_data(keys);
  p.key_mask = mask ? mask->const_data_ptr<bool>() : nullptr;
  p.key_limit = limit ? int64_data(*limit) : nullptr;
  p.batch = batch, p.num_heads = heads, p.num_kv_heads = kv_heads, p.head_dim = head_dim;
  p.q_rows = rows, p.slots = slots;
  p.scale = static_cast<float>(scale);
  p.dtype = dtype;
  run({check, q}, p);
  return out;
}

}  // namespace dpad
