// Cases of block_attention with a reference in float64, for every device's tests.
#pragma once

#include <cmath>
#include <memory>

#include "values.h"

namespace dpad::test {

using Ints = std::vector<int64_t>;

inline constexpr int64_t kRanges = 3, kCapacity = 460;  // of the arena; slots of each

struct Shape {
  int64_t heads, kv_heads, dim;
};

// Four sequences over three ranges of the arena: full, partial and empty tiles, no keys at all.
struct AttentionCase {
  Shape shape;
  DType dtype;
  Ints q_offsets{0, 1, 18, 18, 91}, kv_start, n_keys;
  Values q, k, v;
  std::unique_ptr<bool[]> mask;
  Ints limit;
  int64_t q_rows = 91, row_stride, capacity, arena;
  float scale;

  // Rows of q are `pad` elements apart; the last sequence has `slots` keys.
  AttentionCase(Shape s, DType type, bool with_mask, bool with_limit, int64_t pad = 3,
                int64_t slots = kCapacity)
      : shape(s),
        dtype(type),
        kv_start{2 * slots, 0, slots, 0},
        n_keys{0, 97, 5, slots},
        q(Values::normal(type, 91 * (s.heads * s.dim + pad), 1)),
        k(Values::normal(type, kRanges * s.kv_heads * slots * s.dim, 2)),
        v(Values::normal(type, k.size(), 3)),
        row_stride(s.heads * s.dim + pad),
        capacity(slots),
        arena(kRanges * slots),
        scale(1 / std::sqrt(static_cast<float>(s.dim))) {
    std::mt19937 bits(4);
    if (with_mask) {
      mask = std::make_unique<bool[]>(arena);
      for (int64_t i = 0; i < arena; ++i) mask[i] = bits() % 3 != 0 && i % capacity != 0;
      // Masked keys may hold anything.
      for (int64_t i = 0; i < k.size(); ++i) {
        if (visible(i / s.dim % arena)) continue;
        k.set(i, NAN);
        v.set(i, NAN);
      }
    }
    for (int64_t r = 0; with_limit && r < q_rows; ++r) limit.push_back(bits() % 490 - 10);
  }

  // Of a slot of the arena.
  bool visible(int64_t slot) const { return mask == nullptr || mask[slot]; }

  BlockAttentionParams params(Values& out) {
    BlockAttentionParams p{};
    p.q = q.data(), p.k_cache = k.data(), p.v_cache = v.data(), p.out = out.data();
    p.q_row_stride = row_stride, p.q_head_stride = shape.dim;
    p.k_head_stride = p.v_head_stride = arena * shape.dim;
    p.k_slot_stride = p.v_slot_stride = shape.dim;
    p.q_offsets = q_offsets.data(), p.kv_start = kv_start.data(), p.n_keys = n_keys.data();
    p.key_mask = mask.get();
    p.key_limit = limit.empty() ? nullptr : limit.data();
    p.batch = 4, p.num_heads = shape.heads, p.num_kv_heads = shape.kv_heads;
    p.head_dim = shape.dim, p.scale = scale, p.dtype = dtype;
    p.q_rows = q_rows, p.slots = arena;
    return p;
  }

  // One head of one query in float64: the values' sum, or that of their sizes.
  std::vector<double> exact(int64_t b, int64_t r, int64_t h, bool sizes = false) const {
    const int64_t kv_head = h / (shape.heads / shape.kv_heads);
    const int64_t from = (kv_head * arena + kv_start[b]) * shape.dim;
    std::vector<double> out(shape.dim, 0.0);
    double sum = 0;
    for (int64_t slot = 0; slot < n_keys[b]; ++slot) {
      if (!visible(kv_start[b] + slot) || (!limit.empty() && slot >= limit[r])) continue;
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
