// block_attention on every instruction set against a plain loop in float64.
#include <cmath>

#include "attention_case.h"
#include "cpu/block_attention.h"

using namespace dpad;
using namespace dpad::test;

namespace {

double worst_error(const AttentionCase& c, const Values& out) {
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
        AttentionCase c(shape, dtype, masked, limited);
        on_every_isa([&] {
          CAPTURE(shape.heads, shape.dim, masked, limited, static_cast<int>(dtype));
          Values out = Values::normal(dtype, c.q_rows * shape.heads * shape.dim, 9);
          const BlockAttentionParams p = c.params(out);
          const int64_t tasks = cpu::block_attention_tasks(p);
          run_items(p, 0, tasks / 3, cpu::block_attention_scratch, cpu::block_attention);
          run_items(p, tasks / 3, tasks, cpu::block_attention_scratch, cpu::block_attention);
          // float32 arithmetic on scores up to about 5, and the rounding of the result.
          CHECK(worst_error(c, out) < 2e-6 + (dtype == DType::kFloat16 ? 0x1p-24 : 0));
        });
      }
    }
  }
}

TEST_CASE("a row alone has the bits of the row in its batch, and masked keys the bits of no keys") {
  for (const DType dtype : kTypes) {
    AttentionCase c({4, 2, 32}, dtype, true, true);
    const int64_t width = 4 * 32;
    on_every_isa([&] {
      Values all(dtype, c.q_rows * width);
      BlockAttentionParams p = c.params(all);
      run_items(p, 0, cpu::block_attention_tasks(p), cpu::block_attention_scratch,
                cpu::block_attention);
      for (const int64_t r : {1, 17, 40, 90}) {
        const Ints offsets{r, r + 1}, start{0}, keys{c.n_keys[r < 18 ? 1 : 3]};
        Values alone(dtype, c.q_rows * width);
        BlockAttentionParams one = c.params(alone);
        one.q_offsets = offsets.data();
        one.kv_start = start.data();
        one.n_keys = keys.data();
        one.batch = 1;
        run_items(one, 0, cpu::block_attention_tasks(one), cpu::block_attention_scratch,
                  cpu::block_attention);
        int wrong = 0;
        for (int64_t i = 0; i < width; ++i) wrong += alone[r * width + i] != all[r * width + i];
        CHECK(wrong == 0);
      }
    });
  }
}

TEST_CASE("removing masked keys from the cache does not change a bit") {
  AttentionCase masked({4, 2, 32}, DType::kBFloat16, true, false);
  AttentionCase dense({4, 2, 32}, DType::kBFloat16, false, false);
  dense.q = masked.q;
  for (const int64_t b : {1, 3}) {
    int64_t kept = 0;
    for (int64_t slot = 0; slot < masked.n_keys[b]; ++slot) {
      if (!masked.visible(slot)) continue;
      for (int64_t head = 0; head < 2; ++head) {
        for (int64_t d = 0; d < 32; ++d) {
          const int64_t from = (head * masked.arena + slot) * 32 + d;
          const int64_t to = (head * masked.arena + kept) * 32 + d;
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
    run_items(p, 0, cpu::block_attention_tasks(p), cpu::block_attention_scratch,
              cpu::block_attention);
    run_items(q, 0, cpu::block_attention_tasks(q), cpu::block_attention_scratch,
              cpu::block_attention);
    CHECK(a == b);
  });
}

TEST_CASE("limits are whole numbers, beyond those of float32 too") {
  // Four keys behind 2^24 hidden ones; the rows see none, one, two, three and all of them.
  const int64_t far = int64_t{1} << 24, slots = far + 4;
  const Ints offsets{0, 5}, start{0}, keys{slots}, limit{far, far + 1, far + 2, far + 3, far + 9};
  const auto mask = std::make_unique<bool[]>(slots);
  for (int64_t i = far; i < slots; ++i) mask[i] = true;
  Values q(DType::kFloat32, 5), k(DType::kFloat32, slots), v(DType::kFloat32, slots);
  for (int64_t i = 0; i < 4; ++i) v.set(far + i, static_cast<float>(12 * (i + 1)));
  BlockAttentionParams p{};
  p.q = q.data(), p.k_cache = k.data(), p.v_cache = v.data();
  p.q_row_stride = p.q_head_stride = p.k_slot_stride = p.v_slot_stride = 1;
  p.q_offsets = offsets.data(), p.kv_start = start.data(), p.n_keys = keys.data();
  p.key_mask = mask.get(), p.key_limit = limit.data();
  p.batch = p.num_heads = p.num_kv_heads = p.head_dim = 1;
  p.q_rows = 5, p.slots = slots, p.scale = 1, p.dtype = DType::kFloat32;
  on_every_isa([&] {
    Values out(DType::kFloat32, 5);
    p.out = out.data();
    run_items(p, 0, cpu::block_attention_tasks(p), cpu::block_attention_scratch,
              cpu::block_attention);
    const float want[] = {0, 12, 18, 24, 30};  // means
    for (int64_t r = 0; r < 5; ++r) CHECK(out[r] == want[r]);
  });
}

TEST_CASE("heads of no dimensions are no work") {
  AttentionCase c({4, 2, 32}, DType::kFloat32, false, false);
  Values out(DType::kFloat32, 1);
  BlockAttentionParams p = c.params(out);
  p.head_dim = 0;
  CHECK(cpu::block_attention_tasks(p) == 0);
}

TEST_CASE("a NaN stays in its row") {
  AttentionCase c({4, 2, 32}, DType::kFloat32, false, false);
  c.q.set(30 * c.row_stride + 3, NAN);
  on_every_isa([&] {
    Values out(DType::kFloat32, c.q_rows * 128);
    const BlockAttentionParams p = c.params(out);
    run_items(p, 0, cpu::block_attention_tasks(p), cpu::block_attention_scratch,
              cpu::block_attention);
    for (int64_t i = 0; i < out.size(); ++i) {
      if (std::isnan(out[i]) != (i / 32 == 30 * 4)) FAIL("element " << i);
    }
  });
}
