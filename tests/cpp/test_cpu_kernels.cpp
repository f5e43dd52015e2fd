// Conversions, add_rms_norm, swiglu, linear and rope_kv_write on every instruction set.
#include <cmath>
#include <cstring>
#include <numeric>

#include "cpu/add_rms_norm.h"
#include "cpu/linear.h"
#include "cpu/rope_kv_write.h"
#include "cpu/scratch.h"
#include "cpu/swiglu.h"
#include "values.h"

using namespace dpad;
using namespace dpad::test;

TEST_CASE("instruction sets have names, and the portable one always runs") {
  CHECK(cpu::isa_supported(cpu::Isa::kPortable));
  CHECK(std::string(cpu::isa_name(cpu::Isa::kAvx512)) == "avx512");
  const cpu::Isa before = cpu::selected_isa();
  cpu::set_isa(cpu::Isa::kPortable);
  CHECK(cpu::selected_isa() == cpu::Isa::kPortable);
  cpu::set_isa(before);
}

TEST_CASE("float16 converts by its definition, both ways, for every pattern") {
  int wrong = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double value =
        exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    if (exponent == 31) value = fraction != 0 ? NAN : INFINITY;
    if (bits & 0x8000) value = -value;
    const float wide = half::to_float(half::Float16{static_cast<uint16_t>(bits)});
    half::Float16 back;
    half::from_float(wide, back);
    if (std::isnan(value)) {
      wrong += !std::isnan(wide) || !std::isnan(half::to_float(back));
    } else {
      wrong += wide != value || back.bits != bits;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("16-bit rounding goes to the nearest value, ties to even") {
  const auto half = [](float x) { return rounded(DType::kFloat16, x); };
  CHECK(half(1 + 0x1p-11f) == 1);                // a tie
  CHECK(half(1 + 0x1.8p-10f) == 1 + 0x1p-9f);    // a tie
  CHECK(half(1 + 0x1.02p-11f) == 1 + 0x1p-10f);  // just above
  CHECK(half(65519.996f) == 65504);              // the largest
  CHECK(half(65520) == INFINITY);                // rounds up to 2^16
  CHECK(half(0x1p-25f) == 0);                    // a tie between 0 and the smallest
  CHECK(half(0x1.8p-24f) == 0x1p-23f);           // a subnormal tie
  CHECK(half(0x1.ffep-15f) == 0x1p-14f);         // rounds up into the normal values
  const auto brain = [](float x) { return rounded(DType::kBFloat16, x); };
  CHECK(brain(1 + 0x1p-8f) == 1);
  CHECK(brain(1 + 0x1.8p-7f) == 1 + 0x1p-6f);
  CHECK(brain(0x1.ffp127f) == INFINITY);
  CHECK(std::isnan(brain(NAN)));
  CHECK(std::isnan(half(-NAN)));
}

TEST_CASE("add_rms_norm rounds where the models round") {
  for (const DType dtype : kTypes) {
    for (const int64_t width : {1, 7, 37, 256, 1031}) {
      for (const bool with_delta : {false, true}) {
        const int64_t rows = 3, stride = width + 5;
        const Values before = Values::normal(dtype, rows * stride, 1, 3);
        Values delta = Values::normal(dtype, rows * width, 2);
        Values weight = Values::normal(dtype, width, 3);
        on_every_isa([&] {
          Values residual = before, out(dtype, rows * width);
          AddRmsNormParams p{};
          p.residual = residual.data(), p.residual_stride = stride;
          if (with_delta) p.delta = delta.data(), p.delta_stride = width;
          p.weight = weight.data(), p.out = out.data();
          p.rows = rows, p.width = width, p.eps = 1e-5f, p.dtype = dtype;
          cpu::add_rms_norm(p, 0, 1);
          cpu::add_rms_norm(p, 1, cpu::add_rms_norm_tasks(p));
          int wrong = 0;
          for (int64_t row = 0; row < rows; ++row) {
            double squares = 0;
            for (int64_t i = 0; i < width; ++i) {
              const float added = with_delta ? delta[row * width + i] : 0;
              const float sum = rounded(dtype, before[row * stride + i] + added);
              wrong += residual[row * stride + i] != sum;
              squares += double{sum} * sum;
            }
            const float mean = static_cast<float>(squares / static_cast<double>(width));
            const float scale = 1 / std::sqrt(mean + 1e-5f);
            for (int64_t i = 0; i < width; ++i) {
              const float normed = rounded(dtype, residual[row * stride + i] * scale);
              wrong += out[row * width + i] != rounded(dtype, weight[i] * normed);
            }
            for (int64_t i = width; i < stride; ++i) {
              wrong += residual[row * stride + i] != before[row * stride + i];
            }
          }
          CHECK(wrong == 0);
        });
      }
    }
  }
}

TEST_CASE("swiglu is within a few float32 units of silu, rounded once more to dtype") {
  for (const DType dtype : kTypes) {
    const int64_t rows = 2, width = cpu::kSwigluPiece + 77, stride = width + 3;
    Values gate = Values::normal(dtype, rows * stride, 1, 6);
    Values up = Values::normal(dtype, rows * width, 2);
    const float extremes[] = {-85, -104, -500, -INFINITY, 85, 300, INFINITY, NAN, 0, -0.0f};
    for (int64_t i = 0; i < 10; ++i) gate.set(i, extremes[i]);
    on_every_isa([&] {
      Values out(dtype, rows * width);
      SwigluParams p{};
      p.gate = gate.data(), p.gate_stride = stride;
      p.up = up.data(), p.up_stride = width;
      p.out = out.data(), p.rows = rows, p.width = width, p.dtype = dtype;
      const int64_t tasks = cpu::swiglu_tasks(p);
      for (int64_t task = 0; task < tasks; ++task) cpu::swiglu(p, task, task + 1);
      double worst = 0;
      for (int64_t i = 0; i < rows * width; ++i) {
        const double g = gate[i / width * stride + i % width], u = up[i];
        const double exact = g / (1 + std::exp(-g)) * u;
        if (std::isnan(exact) || std::isinf(exact)) {
          CHECK((std::isnan(exact) ? std::isnan(out[i]) : out[i] == exact));
          continue;
        }
        const double smallest = dtype == DType::kFloat16 ? 0x1p-13 : 0x1p-120;
        worst = std::max(worst, std::abs(out[i] - exact) / (std::abs(exact) + smallest));
      }
      CHECK(worst < 3e-7 + (dtype == DType::kFloat32 ? 0 : 2.01 * unit(dtype)));
    });
  }
}

TEST_CASE("scratch memory that cannot be had is told, and nothing of it is remembered") {
  const int64_t huge = int64_t{1} << 62;
  for (int turn = 0; turn < 2; ++turn) {
    CHECK_FALSE(cpu::Scratch(2, huge));           // more bytes than there are numbers
    CHECK_FALSE(cpu::Scratch(1, huge));           // than an address space
    CHECK(cpu::Scratch(1, huge).size() == huge);  // for the message
    cpu::Scratch small(3, 65);
    REQUIRE(small);
    for (int64_t part = 0; part < 3; ++part) {
      CHECK(reinterpret_cast<uintptr_t>(small.part(part)) % 64 == 0);
      std::memset(small.part(part), 0xff, 65);
    }
    CHECK(cpu::Scratch(5, 0));  // nothing asked for
  }
}

TEST_CASE("linear agrees with float64 in every part of its tasks, and a row with itself alone") {
  const int64_t rows = 43, width = 301;
  // Even depths and strides: pairs of bfloat16, where they have an instruction.
  const auto depth = GENERATE(int64_t{517}, int64_t{518});
  const int64_t x_stride = depth + 2 + depth % 2, stride = depth + 6 + depth % 2;
  for (const DType dtype : kTypes) {
    Values x = Values::normal(dtype, rows * x_stride, 1);
    Values weight = Values::normal(dtype, width * stride, 2);
    Values bias = Values::normal(dtype, width, 3);
    on_every_isa([&] {
      Values out(dtype, rows * width);
      LinearParams p{};
      p.x = x.data(), p.x_stride = x_stride;
      p.weight = weight.data(), p.weight_stride = stride;
      p.bias = bias.data(), p.out = out.data(), p.dtype = dtype;
      p.rows = rows, p.in_features = depth, p.out_features = width;
      const int64_t tasks = cpu::linear_tasks(p);
      run_items(p, 0, tasks / 3, cpu::linear_scratch, cpu::linear);
      run_items(p, tasks / 3, tasks, cpu::linear_scratch, cpu::linear);
      double worst = 0;
      for (int64_t i = 0; i < rows * width; ++i) {
        double sum = bias[i % width];
        for (int64_t k = 0; k < depth; ++k) {
          sum += double{x[i / width * x_stride + k]} * weight[i % width * stride + k];
        }
        worst = std::max(worst, std::abs(out[i] - sum) - unit(dtype) * std::abs(sum));
      }
      CHECK(worst < 5e-5);  // sums of about sqrt(517) in float32, rounded once
      for (const int64_t row : {0, 31, 32, 42}) {
        Values one(dtype, x_stride), alone(dtype, width);
        for (int64_t i = 0; i < depth; ++i) one.set(i, x[row * x_stride + i]);
        p.x = one.data(), p.out = alone.data(), p.rows = 1;
        run_items(p, 0, tasks, cpu::linear_scratch, cpu::linear);
        int wrong = 0;
        for (int64_t i = 0; i < width; ++i) wrong += alone[i] != out[row * width + i];
        CHECK(wrong == 0);
      }
    });
  }
}

namespace {

// The models' own rotation as separate tensor operations: every operation rounds to `inner`.
float rotated(const Values& x, int64_t base, int64_t d, int64_t half, const float* cos,
              const float* sin, DType inner, DType dtype) {
  if (d >= 2 * half) return x[base + d];
  const float other = d < half ? -x[base + d + half] : x[base + d - half];
  const float a = rounded(inner, x[base + d] * rounded(inner, cos[d % half]));
  const float b = rounded(inner, other * rounded(inner, sin[d % half]));
  return rounded(dtype, rounded(inner, a + b));
}

}  // namespace

TEST_CASE("rope_kv_write has the bits of separate operations and leaves other slots alone") {
  const int64_t q_rows = 3, rows = 4, heads = 4, kv_heads = 2, positions = 9, capacity = 6;
  const std::vector<int64_t> q_position{8, 0, 5}, position{1, 7, 3, 2}, slot{5, -1, 0, 3};
  const std::vector<int64_t> row_start{6, 6, 0, 6}, offsets{0, 2, 3, 4}, kv_start{6, 0, 6};
  for (const DType dtype : kTypes) {
    for (const auto& [dim, half] : {std::pair<int64_t, int64_t>{128, 64}, {22, 11}, {40, 9}}) {
      for (const bool full : {false, true}) {
        Values q = Values::normal(dtype, q_rows * heads * dim, 1);
        Values k = Values::normal(dtype, rows * kv_heads * dim, 2);
        Values v = Values::normal(dtype, rows * kv_heads * dim, 3);
        std::vector<float> cos(positions * half), sin(positions * half);
        for (size_t i = 0; i < cos.size(); ++i) cos[i] = std::cos(i), sin[i] = std::sin(i);
        const int64_t head_stride = 2 * capacity * dim;
        const DType inner = full ? DType::kFloat32 : dtype;
        on_every_isa([&] {
          Values out(dtype, q.size());
          Values k_cache = Values::normal(dtype, kv_heads * head_stride, 4), v_cache = k_cache;
          Values k_want = k_cache, v_want = v_cache;
          RopeKvWriteParams p{};
          p.q = q.data(), p.k = k.data(), p.v = v.data();
          p.q_row_stride = heads * dim, p.k_row_stride = p.v_row_stride = kv_heads * dim;
          p.q_head_stride = p.k_head_stride = p.v_head_stride = dim;
          p.q_position = q_position.data(), p.position = position.data();
          p.slot = slot.data(), p.q_offsets = offsets.data();
          p.kv_start = kv_start.data(), p.batch = 3;
          p.cos = cos.data(), p.sin = sin.data();
          p.q_out = out.data(), p.k_cache = k_cache.data(), p.v_cache = v_cache.data();
          p.k_cache_head_stride = p.v_cache_head_stride = head_stride;
          p.k_cache_slot_stride = p.v_cache_slot_stride = dim;
          p.q_rows = q_rows, p.rows = rows, p.num_heads = heads, p.num_kv_heads = kv_heads;
          p.head_dim = dim, p.rotary_dim = 2 * half;
          p.full_precision = full, p.dtype = dtype;
          cpu::rope_kv_write(p, 0, 2);
          cpu::rope_kv_write(p, 2, cpu::rope_kv_write_tasks(p));
          int wrong = 0;
          for (int64_t i = 0; i < q.size(); ++i) {
            const int64_t at = q_position[i / (heads * dim)] * half;
            wrong += out[i] !=
                     rotated(q, i / dim * dim, i % dim, half, &cos[at], &sin[at], inner, dtype);
          }
          for (int64_t i = 0; i < k.size(); ++i) {
            const int64_t row = i / (kv_heads * dim), head = i / dim % kv_heads, d = i % dim;
            if (slot[row] < 0) continue;
            const int64_t to = head * head_stride + (row_start[row] + slot[row]) * dim + d;
            const int64_t at = position[row] * half;
            k_want.set(to, rotated(k, i / dim * dim, d, half, &cos[at], &sin[at], inner, dtype));
            v_want.set(to, v[i]);
          }
          CHECK(wrong == 0);
          CHECK(k_cache == k_want);
          CHECK(v_cache == v_want);
        });
      }
    }
  }
}
