// The launchers of swiglu, add_rms_norm, suffix_gather and rope_kv_write over many shapes against
// the CPU's operators.
#include "cpu/add_rms_norm.h"
#include "cpu/rope_kv_write.h"
#include "cpu/suffix_gather.h"
#include "cpu/swiglu.h"
#include "cuda/add_rms_norm.h"
#include "cuda/rope_kv_write.h"
#include "cuda/suffix_gather.h"
#include "cuda/swiglu.h"
#include "cuda_launch.h"

using namespace dpad;
using namespace dpad::test;

namespace {

struct Rows {
  int64_t rows, width, pad;  // of a row, in elements
  int64_t shift;             // of the first row
};

const Rows kShapes[] = {{1, 1, 0, 0},     {2, 7, 3, 0},    {3, 8, 0, 0},    {200, 8, 8, 0},
                        {1, 64, 0, 1},    {5, 100, 0, 0},  {2, 129, 7, 0},  {17, 257, 0, 0},
                        {2, 2048, 16, 0}, {1, 2049, 0, 0}, {3, 1032, 8, 0}, {2, 1032, 8, 8}};

bool wide(const Rows& s, DType dtype) {
  const int64_t pack = 16 / Output::bytes_of(dtype);
  return s.width % pack == 0 && s.pad % pack == 0 && s.shift % pack == 0;
}

void require_close(const Output& got, const Output& want, DType dtype) {
  REQUIRE(got.intact());
  const double units = dtype == DType::kFloat32 ? 16 : 4.1;
  for (int64_t i = 0; i < got.size(); ++i) {
    CAPTURE(i, got[i], want[i]);
    if (!(std::abs(got[i] - want[i]) <= units * unit(dtype) * std::abs(want[i]) + 1e-7)) FAIL();
  }
}

}  // namespace

TEST_CASE("swiglu, launched") {
  fake_cuda().reset();
  for (const DType dtype : kTypes) {
    for (const Rows& s : kShapes) {
      CAPTURE(static_cast<int>(dtype), s.rows, s.width, s.pad, s.shift);
      const int64_t stride = s.width + s.pad;
      Values gate = Values::normal(dtype, s.shift + s.rows * stride, 1, 4);
      Values up = Values::normal(dtype, s.rows * stride, 2);
      Output got(dtype, s.rows * s.width), want(dtype, s.rows * s.width);
      SwigluParams p{};
      p.gate = element(gate, s.shift), p.up = up.data(), p.gate_stride = p.up_stride = stride;
      p.rows = s.rows, p.width = s.width, p.dtype = dtype;
      p.out = want.data();
      cpu::swiglu(p, 0, cpu::swiglu_tasks(p));
      p.out = got.data();
      next_order();
      REQUIRE(launched(p, cuda::launch_swiglu) ==
              Names{"swiglu_kernel" + packs(dtype, wide(s, dtype))});
      require_close(got, want, dtype);
    }
  }
}

TEST_CASE("add_rms_norm, launched") {
  fake_cuda().reset();
  for (const DType dtype : kTypes) {
    for (const Rows& s : kShapes) {
      for (const bool added : {false, true}) {
        CAPTURE(static_cast<int>(dtype), s.rows, s.width, s.pad, s.shift, added);
        const int64_t stride = s.width + s.pad, size = s.shift + s.rows * stride;
        Values before = Values::normal(dtype, size, 1), after = before;
        Values delta = Values::normal(dtype, s.rows * stride, 2);
        Values weight = Values::normal(dtype, s.width, 3);
        Output got(dtype, s.rows * s.width), want(dtype, s.rows * s.width);
        AddRmsNormParams p{};
        p.delta = added ? delta.data() : nullptr, p.weight = weight.data();
        p.residual_stride = stride, p.delta_stride = added ? stride : 0;
        p.rows = s.rows, p.width = s.width, p.eps = 1e-5f, p.dtype = dtype;
        p.residual = element(before, s.shift), p.out = want.data();
        cpu::add_rms_norm(p, 0, cpu::add_rms_norm_tasks(p));
        p.residual = element(after, s.shift), p.out = got.data();
        next_order();
        REQUIRE(launched(p, cuda::launch_add_rms_norm) ==
                Names{"add_rms_norm_kernel" + packs(dtype, wide(s, dtype))});
        REQUIRE(after == before);
        require_close(got, want, dtype);
      }
    }
  }
}

TEST_CASE("suffix_gather, launched") {
  fake_cuda().reset();
  const int64_t length = 90, canvases = 4;
  Ints canvas;
  for (int64_t i = 0; i < canvases * (length + 3); ++i) canvas.push_back(7 * i + 1);
  for (const Ints& counts : {Ints{1}, Ints{0, 1, 0}, Ints{255}, Ints{256, 0}, Ints{0, 257, 1000, 1},
                             Ints{3, 0, 0, 200, 1}}) {
    for (const bool hidden : {false, true}) {
      const auto batch = static_cast<int64_t>(counts.size());
      const Ints offsets = offsets_of(counts);
      Ints position, row, until;
      for (int64_t i = 0; i < offsets.back(); ++i) position.push_back(i * 31 % length);
      for (int64_t b = 0; b < batch; ++b) row.push_back(b * 3 % canvases), until.push_back(9 * b);
      Ints want(offsets.back() + 1, -3), got = want;
      SuffixGatherParams p{};
      p.canvas = canvas.data(), p.canvas_stride = length + 3, p.canvas_row = row.data();
      p.q_offsets = offsets.data(), p.position = position.data();
      p.hidden_until = hidden ? until.data() : nullptr;
      p.batch = batch, p.mask_id = -1, p.rows = offsets.back();
      p.canvas_rows = canvases, p.length = length;
      p.out = want.data();
      cpu::suffix_gather(p);
      p.out = got.data();
      next_order();
      REQUIRE(launched(p, cuda::launch_suffix_gather) == Names{"suffix_gather_kernel"});
      REQUIRE(got == want);
    }
  }
}

namespace {

struct RopeShape {
  int64_t heads, kv_heads, dim, rotary, pad;
  Ints counts;     // rows of k and v per sequence
  int64_t q_rows;  // in the last layer fewer than rows
  int64_t shift = 0;
};

// Head vectors are `pad` elements apart, the rows of k and v in the caches as well.
struct Rope {
  static constexpr int64_t kPositions = 300, kRanges = 4, kCapacity = 220;
  RopeShape s;
  int64_t rows, vector;
  Values q, k, v;
  std::vector<float> cos, sin;
  Ints q_position, position, slot, offsets, kv_start;

  Rope(const RopeShape& shape, DType dtype)
      : s(shape),
        rows(offsets_of(s.counts).back()),
        vector(s.dim + s.pad),
        q(Values::normal(dtype, s.shift + s.q_rows * s.heads * vector, 1)),
        k(Values::normal(dtype, rows * s.kv_heads * vector, 2)),
        v(Values::normal(dtype, rows * s.kv_heads * vector, 3)),
        offsets(offsets_of(s.counts)) {
    for (int64_t i = 0; i < kPositions * s.rotary / 2; ++i) {
      cos.push_back(std::cos(0.1f * i)), sin.push_back(std::sin(0.1f * i));
    }
    for (int64_t i = 0; i < s.q_rows; ++i) q_position.push_back((7 * i + 3) % kPositions);
    for (size_t b = 0; b < s.counts.size(); ++b) {
      kv_start.push_back(b % kRanges * kCapacity);
      for (int64_t i = 0; i < s.counts[b]; ++i) {
        position.push_back((position.size() * 5 + 1) % kPositions);
        slot.push_back(i % 9 == 4 ? -1 : kCapacity - 1 - i);
      }
    }
  }

  int64_t cache_size() const { return kRanges * s.kv_heads * kCapacity * vector; }

  RopeKvWriteParams params(Output& q_out, Output& k_cache, Output& v_cache, bool full) {
    RopeKvWriteParams p{};
    p.q = element(q, s.shift), p.k = k.data(), p.v = v.data();
    p.q_row_stride = s.heads * vector;
    p.q_head_stride = p.k_head_stride = p.v_head_stride = vector;
    p.k_row_stride = p.v_row_stride = s.kv_heads * vector;
    p.q_position = q_position.data(), p.position = position.data(), p.slot = slot.data();
    p.q_offsets = offsets.data(), p.kv_start = kv_start.data();
    p.cos = cos.data(), p.sin = sin.data(), p.q_out = q_out.data();
    p.k_cache = k_cache.data(), p.v_cache = v_cache.data();
    p.k_cache_head_stride = p.v_cache_head_stride = kRanges * kCapacity * vector;
    p.k_cache_slot_stride = p.v_cache_slot_stride = vector;
    p.q_rows = s.q_rows, p.rows = rows, p.num_heads = s.heads, p.num_kv_heads = s.kv_heads;
    p.head_dim = s.dim, p.rotary_dim = s.rotary;
    p.batch = static_cast<int64_t>(s.counts.size()), p.positions = kPositions;
    p.slots = kRanges * kCapacity;
    p.full_precision = full, p.dtype = q.dtype();
    return p;
  }
};

const RopeShape kRopes[] = {
    {1, 1, 64, 64, 0, {1}, 1},        {7, 1, 128, 128, 0, {0, 33, 1}, 34},
    {8, 1, 64, 32, 8, {5, 0}, 3},     {14, 2, 64, 64, 0, {16, 0, 0, 7}, 0},
    {2, 2, 48, 48, 3, {9, 2}, 20},    {3, 3, 18, 12, 0, {4}, 4},
    {2, 1, 7, 6, 1, {3, 3}, 6},       {28, 4, 128, 128, 0, {2, 0, 1}, 3},
    {1, 1, 128, 0, 0, {200, 5}, 205}, {4, 4, 80, 80, 0, {0}, 2},
    {2, 2, 64, 64, 0, {4}, 4, 1},
};

}  // namespace

TEST_CASE("rope_kv_write, launched: the CPU's bits, and nothing else is written") {
  fake_cuda().reset();
  for (const DType dtype : kTypes) {
    for (const RopeShape& s : kRopes) {
      for (const bool full : {false, true}) {
        CAPTURE(static_cast<int>(dtype), s.heads, s.dim, s.rotary, s.q_rows, full);
        Rope c(s, dtype);
        const auto out = [&] { return Output(dtype, s.q_rows * s.heads * s.dim); };
        const auto cache = [&] { return Output(dtype, c.cache_size()); };
        Output q_want = out(), k_want = cache(), v_want = cache();
        Output q_got = out(), k_got = cache(), v_got = cache();
        const RopeKvWriteParams want = c.params(q_want, k_want, v_want, full);
        cpu::rope_kv_write(want, 0, cpu::rope_kv_write_tasks(want));
        next_order();
        const Names names =
            launched(c.params(q_got, k_got, v_got, full), cuda::launch_rope_kv_write);
        const int64_t pack = 16 / Output::bytes_of(dtype);
        const bool wide =
            s.dim % pack == 0 && s.rotary / 2 % pack == 0 && s.pad % pack == 0 && s.shift == 0;
        REQUIRE(names == Names{"rope_kv_write_kernel" + packs(dtype, wide)});
        REQUIRE(q_got == q_want);
        REQUIRE(k_got == k_want);
        REQUIRE(v_got == v_want);
      }
    }
  }
}
