// Cases of block_attention with a reference in float64, for every device's tests.
#pragma once

#include <cmath>
#include <memory>

#include "values.h"

namespace dpad::test {

using Ints = std::vector<int64_t>;

inline constexpr int64_t kCacheRows = 3, kCapacity = 460;

struct Shape {
  int64_t heads, kv_heads, dim;
};

// Four sequences over three cache rows: full, partial and empty tiles, no keys at all.
struct AttentionCase {
  Shape shape;
  DType dtype;
  Ints q_offsets{0, 1, 18, 18, 91}, cache_row{2, 0, 1, 0}, n_keys;
  Values q, k, v;
  std::unique_ptr<bool[]> mask;
  Ints limit;
  int64_t q_rows = 91, row_stride, capacity;
  float scale;

  // Rows of q are `pad` elements apart; the last sequence has `slots` keys.
  AttentionCase(Shape s, DType type, bool with_mask, bool with_limit, int64_t pad = 3,
                int64_t slots = kCapacity)
      : shape(s),
        dtype(type),
        n_keys{0, 97, 5, slots},
        q(Values::normal(type, 91 * (s.heads * s.dim + pad), 1)),
        k(Values::normal(type, kCacheRows * s.kv_heads * slots * s.dim, 2)),
        v(Values::normal(type, k.size(), 3)),
        row_stride(s.heads * s.dim + pad),
        capacity(slots),
        scale(1 / std::sqrt(static_cast<float>(s.dim))) {
    std::mt19937 bits(4);
    if (with_mask) {
      mask = std::make_unique<bool[]>(kCacheRows * capacity);
      for (int64_t i = 0; i < kCacheRows * capacity; ++i)
        mask[i] = bits() % 3 != 0 && i % capacity != 0;
      // Masked keys may hold anything.
      for (int64_t i = 0; i < k.size(); ++i) {
        if (visible(i / (shape.kv_heads * capacity * s.dim), i / s.dim % capacity)) continue;
        k.set(i, NAN);
        v.set(i, NAN);
      }
    }
    for (int64_t r = 0; with_limit && r < q_rows; ++r) limit.push_back(bits() % 490 - 10);
  }

  bool visible(int64_t row, int64_t slot) const {
    return mask == nullptr || mask[row * capacity + slot];
  }

  BlockAttentionParams params(Values& out) {
    const int64_t slot = shape.dim, head = capacity * slot, row = shape.kv_heads * head;
    BlockAttentionParams p{};
    p.q = q.data(), p.k_cache = k.data(), p.v_cache = v.data(), p.out = out.data();
    p.q_row_stride = row_stride, p.q_head_stride = shape.dim;
    p.k_cache_stride = p.v_cache_stride = row;
    p.k_head_stride = p.v_head_stride = head;
    p.k_slot_stride = p.v_slot_stride = slot;
    p.q_offsets = q_offsets.data(), p.cache_row = cache_row.data(), p.n_keys = n_keys.data();
    p.key_mask = mask.get(), p.key_mask_stride = capacity;
    p.key_limit = limit.empty() ? nullptr : limit.data();
    p.batch = 4, p.num_heads = shape.heads, p.num_kv_heads = shape.kv_heads;
    p.head_dim = shape.dim, p.scale = scale, p.dtype = dtype;
    p.q_rows = q_rows, p.cache_rows = kCacheRows, p.capacity = capacity;
    return p;
  }

  // One head of one query in float64: the values' sum, or that of their sizes.
  std::vector<double> exact(int64_t b, int64_t r, int64_t h, bool sizes = false) const {
    const int64_t from =
        (cache_row[b] * shape.kv_heads + h / (shape.heads / shape.kv_heads)) * capacity * shape.dim;
    std::vector<double> out(shape.dim, 0.0);
    double sum = 0;
    for (int64_t slot = 0; slot < n_keys[b]; ++slot) {
      if (!visible(cache_row[b], slot) || (!limit.empty() && slot >= limit[r])) continue;
      double score = 0;
      for (int64_t d = 0; d < shape.dim; ++d) {
        score += double{q[r * row_stride + h * shape.dim + d]} * k[from + slot * shape.dim + d];
      }
      const double weight = std::exp(score * double{scale});
      sum += weight;
      for (int64_t d = 0; d < shape.dim; ++d) {
        const double value = v[from + slot * shape.dim + d];
        out[d] += weight * (sizes ? std::abs(value) : value);
      }
    }
    for (double& x : out) x = sum > 0 ? x / sum : 0;
    return out;
  }
};

}  // namespace dpad::test
