// block_attention on every instruction set against a plain loop in float64.
#include <cmath>
#include <memory>

#include "cpu/block_attention.h"
#include "values.h"

using namespace dpad;
using namespace dpad::test;
using Ints = std::vector<int64_t>;

namespace {

constexpr int64_t kCacheRows = 3, kCapacity = 230;

struct Shape {
  int64_t heads, kv_heads, dim;
};

// Four sequences over three cache rows: full, partial and empty tiles, no keys at all.
struct Case {
  Shape shape;
  DType dtype;
  Ints q_offsets{0, 1, 18, 18, 91}, cache_row{2, 0, 1, 0}, n_keys{0, 97, 5, 230};
  Values q, k, v;
  std::unique_ptr<bool[]> mask;
  Ints limit;
  int64_t q_rows = 91, row_stride;
  float scale;

  Case(Shape s, DType type, bool with_mask, bool with_limit)
      : shape(s),
        dtype(type),
        q(Values::normal(type, 91 * (s.heads * s.dim + 3), 1)),
        k(Values::normal(type, kCacheRows * s.kv_heads * kCapacity * s.dim, 2)),
        v(Values::normal(type, k.size(), 3)),
        row_stride(s.heads * s.dim + 3),
        scale(1 / std::sqrt(static_cast<float>(s.dim))) {
    std::mt19937 bits(4);
    if (with_mask) {
      mask = std::make_unique<bool[]>(kCacheRows * kCapacity);
      for (int64_t i = 0; i < kCacheRows * kCapacity; ++i) mask[i] = bits() % 3 != 0;
      // Masked keys may hold anything.
      for (int64_t i = 0; i < k.size(); ++i) {
        if (visible(i / (shape.kv_heads * kCapacity * s.dim), i / s.dim % kCapacity)) continue;
        k.set(i, NAN);
        v.set(i, NAN);
      }
    }
    for (int64_t r = 0; with_limit && r < q_rows; ++r) limit.push_back(bits() % 260 - 10);
  }

  bool visible(int64_t row, int64_t slot) const {
    return mask == nullptr || mask[row * kCapacity + slot];
  }

  BlockAttentionParams params(Values& out) {
    const int64_t slot = shape.dim, head = kCapacity * slot, row = shape.kv_heads * head;
    BlockAttentionParams p{};
    p.q = q.data(), p.k_cache = k.data(), p.v_cache = v.data(), p.out = out.data();
    p.q_row_stride = row_stride, p.q_head_stride = shape.dim;
    p.k_cache_stride = p.v_cache_stride = row;
    p.k_head_stride = p.v_head_stride = head;
    p.k_slot_stride = p.v_slot_stride = slot;
    p.q_offsets = q_offsets.data(), p.cache_row = cache_row.data(), p.n_keys = n_keys.data();
    p.key_mask = mask.get(), p.key_mask_stride = kCapacity;
    p.key_limit = limit.empty() ? nullptr : limit.data();
    p.batch = 4, p.num_heads = shape.heads, p.num_kv_heads = shape.kv_heads;
    p.head_dim = shape.dim, p.scale = scale, p.dtype = dtype;
    return p;
  }

  // One head of one query in float64.
  std::vector<double> exact(int64_t b, int64_t r, int64_t h) const {
    const int64_t from = (cache_row[b] * shape.kv_heads + h / (shape.heads / shape.kv_heads)) *
                         kCapacity * shape.dim;
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
      for (int64_t d = 0; d < shape.dim; ++d) out[d] += weight * v[from + slot * shape.dim + d];
    }
    for (double& x : out) x = sum > 0 ? x / sum : 0;
    return out;
  }
};

double worst_error(const Case& c, const Values& out) {
  double worst = 0;
  for (int64_t b = 0; b < 4; ++b) {
    for (int64_t r = c.q_offsets[b]; r < c.q_offsets[b + 1]; ++r) {
      for (int64_t h = 0; h < c.shape.heads; ++h) {
        const std::vector<double> want = c.exact(b, r, h);
        for (int64_t d = 0; d < c.shape.dim; ++d) {
          const double got = out[(r * c.shape.heads + h) * c.shape.dim + d];
          const double error = std::abs(got - want[d]) - unit(c.dtype) * std::abs(want[d]);
          worst = std::isnan(got) ? INFINITY : std::max(worst, error);
        }
      }
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("block_attention agrees with float64 for awkward shapes") {
  for (const DType dtype : kTypes) {
    for (const Shape shape : {Shape{4, 2, 32}, {1, 1, 128}, {7, 1, 16}, {3, 3, 5}, {2, 1, 17}}) {
      for (int extras = 0; extras < 4; ++extras) {
        const bool masked = extras & 1, limited = extras & 2;
        Case c(shape, dtype, masked, limited);
        on_every_isa([&] {
          CAPTURE(shape.heads, shape.dim, masked, limited, static_cast<int>(dtype));
          Values out = Values::normal(dtype, c.q_rows * shape.heads * shape.dim, 9);
          const BlockAttentionParams p = c.params(out);
          const int64_t tasks = cpu::block_attention_tasks(p);
          cpu::block_attention(p, 0, tasks / 3);
          cpu::block_attention(p, tasks / 3, tasks);
          // float32 arithmetic on scores up to about 5, and the rounding of the result.
          CHECK(worst_error(c, out) < 2e-6 + (dtype == DType::kFloat16 ? 0x1p-24 : 0));
        });
      }
    }
  }
}

TEST_CASE("a row alone has the bits of the row in its batch, and masked keys the bits of no keys") {
  for (const DType dtype : kTypes) {
    Case c({4, 2, 32}, dtype, true, true);
    const int64_t width = 4 * 32;
    on_every_isa([&] {
      Values all(dtype, c.q_rows * width);
      BlockAttentionParams p = c.params(all);
      cpu::block_attention(p, 0, cpu::block_attention_tasks(p));
      for (const int64_t r : {1, 17, 40, 90}) {
        const Ints offsets{r, r + 1}, row{0}, keys{c.n_keys[r < 18 ? 1 : 3]};
        Values alone(dtype, c.q_rows * width);
        BlockAttentionParams one = c.params(alone);
        one.q_offsets = offsets.data();
        one.cache_row = row.data();
        one.n_keys = keys.data();
        one.batch = 1;
        cpu::block_attention(one, 0, cpu::block_attention_tasks(one));
        int wrong = 0;
        for (int64_t i = 0; i < width; ++i) wrong += alone[r * width + i] != all[r * width + i];
        CHECK(wrong == 0);
      }
    });
  }
}

TEST_CASE("removing masked keys from the cache does not change a bit") {
  Case masked({4, 2, 32}, DType::kBFloat16, true, false);
  Case dense({4, 2, 32}, DType::kBFloat16, false, false);
  dense.q = masked.q;
  for (const int64_t b : {1, 3}) {
    int64_t kept = 0;
    for (int64_t slot = 0; slot < masked.n_keys[b]; ++slot) {
      if (!masked.visible(0, slot)) continue;
      for (int64_t head = 0; head < 2; ++head) {
        for (int64_t d = 0; d < 32; ++d) {
          const int64_t from = (head * kCapacity + slot) * 32 + d;
          const int64_t to = (head * kCapacity + kept) * 32 + d;
          dense.k.set(to, masked.k[from]);
          dense.v.set(to, masked.v[from]);
        }
      }
      ++kept;
    }
    dense.n_keys[b] = kept;
  }
  on_every_isa([&] {
    Values a(DType::kBFloat16, masked.q_rows * 128), b = a;
    BlockAttentionParams p = masked.params(a), q = dense.params(b);
    cpu::block_attention(p, 0, cpu::block_attention_tasks(p));
    cpu::block_attention(q, 0, cpu::block_attention_tasks(q));
    CHECK(a == b);
  });
}

TEST_CASE("a NaN stays in its row") {
  Case c({4, 2, 32}, DType::kFloat32, false, false);
  c.q.set(30 * c.row_stride + 3, NAN);
  on_every_isa([&] {
    Values out(DType::kFloat32, c.q_rows * 128);
    const BlockAttentionParams p = c.params(out);
    cpu::block_attention(p, 0, cpu::block_attention_tasks(p));
    for (int64_t i = 0; i < out.size(); ++i) {
      if (std::isnan(out[i]) != (i / 32 == 30 * 4)) FAIL("element " << i);
    }
  });
}
