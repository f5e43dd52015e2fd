// int8_linear by every compiled set of instructions, those too that this machine would not choose.
#include <cmath>
#include <random>

#include "cpu/int8_linear.h"
#include "cpu/int8_linear_panel.h"
#include "values.h"

using namespace dpad;
using namespace dpad::test;

namespace {

struct Variant {
  const char* name;
  bool supported;
  decltype(&cpu::int8_layout_portable) layout;
  decltype(&cpu::int8_tile_portable) tile;
  decltype(&cpu::int8_panel_portable) panel;
};

std::vector<Variant> variants() {
  std::vector<Variant> all{{"portable", true, cpu::int8_layout_portable, cpu::int8_tile_portable,
                            cpu::int8_panel_portable}};
#if defined(__x86_64__)
  const bool avx512 = cpu::isa_supported(cpu::Isa::kAvx512);
  all.push_back({"avx2", cpu::isa_supported(cpu::Isa::kAvx2), cpu::int8_layout_avx2,
                 cpu::int8_tile_avx2, cpu::int8_panel_avx2});
  all.push_back(
      {"avx512", avx512, cpu::int8_layout_avx512, cpu::int8_tile_avx512, cpu::int8_panel_avx512});
  all.push_back({"avx512vnni", avx512 && __builtin_cpu_supports("avx512vnni"),
                 cpu::int8_layout_avx512vnni, cpu::int8_tile_avx512vnni,
                 cpu::int8_panel_avx512vnni});
#endif
  return all;
}

struct Case {
  int64_t rows, depth, width;
  Values x, bias;
  std::vector<int8_t> weight;
  std::vector<float> scale, smoothing;

  Case(DType dtype, int64_t rows, int64_t depth, int64_t width)
      : rows(rows),
        depth(depth),
        width(width),
        x(Values::normal(dtype, rows * depth, 1)),
        bias(Values::normal(dtype, width, 2)) {
    std::mt19937 bits(3);
    for (int64_t i = 0; i < width * depth; ++i) weight.push_back(static_cast<int8_t>(bits()));
    for (int64_t i = 0; i < width; ++i) scale.push_back(float(bits() % 1000 + 1) * 1e-4f);
    for (int64_t i = 0; i < depth; ++i) smoothing.push_back(float(bits() % 100 + 50) * 1e-2f);
  }

  float expected(int64_t row, int64_t column) const {
    const auto value = [&](int64_t k) { return x[row * depth + k] * smoothing[size_t(k)]; };
    float most = 0;
    for (int64_t k = 0; k < depth; ++k) most = std::max(most, std::abs(value(k)));
    const float factor = 127.0f / most;
    int64_t sum = 0;
    for (int64_t k = 0; k < depth; ++k) {
      sum += int64_t{weight[size_t(column * depth + k)]} * std::lrint(value(k) * factor);
    }
    const float scaled = static_cast<float>(sum) * (most / 127.0f) * scale[size_t(column)];
    return rounded(x.dtype(), scaled + bias[column]);
  }
};

}  // namespace

TEST_CASE("int8_linear has the bits of its definition on every set of instructions") {
  for (const DType dtype : kTypes) {
    for (const auto& [rows, depth, width] :
         {std::tuple{43, 517, 301}, {1, 1, 1}, {17, 6, 50}, {130, 64, 9}}) {
      Case c(dtype, rows, depth, width);
      for (const Variant& variant : variants()) {
        if (!variant.supported) continue;
        INFO(variant.name);
        const cpu::Int8Layout layout = variant.layout();
        const int64_t tiles = (rows + layout.lanes - 1) / layout.lanes;
        const int64_t words = (depth + layout.group - 1) / layout.group;
        Values out(dtype, rows * width);
        std::vector<int32_t> packed(size_t(tiles * layout.lanes * words)), sums(size_t{131});
        std::vector<float> scales(size_t{131});
        Int8LinearParams p{};
        p.x = c.x.data(), p.weight = c.weight.data(), p.scale = c.scale.data();
        p.bias = c.bias.data(), p.smoothing = c.smoothing.data(), p.out = out.data();
        p.packed = packed.data(), p.row_scale = scales.data(), p.row_sum = sums.data();
        p.x_stride = p.weight_stride = depth;
        p.rows = rows, p.in_features = depth, p.out_features = width, p.dtype = dtype;
        std::vector<float> scratch(size_t(std::max<int64_t>(cpu::kInt8Scratch, (depth + 64) * 16)) +
                                   16);
        float* const aligned = scratch.data() + (64 - uintptr_t(scratch.data()) % 64) % 64 / 4;
        for (int64_t i = 0; i < tiles; ++i) variant.tile(p, i, aligned);
        for (int64_t first = 0; first < rows; first += cpu::kInt8Rows) {
          const int64_t some = std::min<int64_t>(rows - first, cpu::kInt8Rows);
          for (int64_t n = 0; n < width; n += cpu::kInt8Panel) {
            variant.panel(p, first, some, n, std::min<int64_t>(width, n + cpu::kInt8Panel),
                          aligned);
          }
        }
        int wrong = 0;
        for (int64_t i = 0; i < rows * width; ++i) {
          wrong += out[i] != c.expected(i / width, i % width);
        }
        CHECK(wrong == 0);
      }
    }
  }
}
