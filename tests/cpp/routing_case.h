// A routed MLP's rows and pairs with results of their own, for the tests of route and combine.
#pragma once

#include <algorithm>
#include <numeric>

#include "cpu/combine.h"
#include "cpu/route.h"
#include "values.h"

namespace dpad::test {

struct RouteShape {
  int64_t rows, experts, top_k, groups, top_groups;
  Score score;
  bool biased, normalise;
};

inline const RouteShape kRouters[] = {
    {1, 1, 1, 1, 1, Score::kSoftmax, false, true},
    {9, 128, 8, 1, 1, Score::kSoftmax, false, true},
    {17, 64, 8, 1, 1, Score::kSoftmax, true, false},
    {40, 256, 8, 8, 4, Score::kSigmoid, true, true},
    {3, 33, 33, 1, 1, Score::kSigmoid, false, false},
    {70, 100, 5, 50, 7, Score::kSigmoid, true, true},
    {8, 40, 36, 4, 4, Score::kSoftmax, false, true},
    {300, 4, 2, 2, 1, Score::kSigmoid, false, true},
};

struct RouteCase {
  Values logits;
  std::vector<float> bias, weight;
  std::vector<int64_t> expert, order;
  std::vector<int32_t> offsets;
  RouteParams p{};

  RouteCase(const RouteShape& s, DType dtype, uint32_t seed)
      : logits(Values::normal(dtype, s.rows * (s.experts + 3), seed, 2)),
        bias(s.experts),
        weight(s.rows * s.top_k, -7),
        expert(s.rows * s.top_k, -7),
        order(s.rows * s.top_k, -7),
        offsets(s.experts, -7) {
    for (int64_t e = 0; e < s.experts; ++e) bias[e] = 0.01f * static_cast<float>(e * 37 % 19);
    for (int64_t i = 0; i < logits.size(); i += 5) logits.set(i, 0.5f);  // ties
    p.logits_stride = s.experts + 3;
    p.rows = s.rows, p.experts = s.experts, p.top_k = s.top_k;
    p.groups = s.groups, p.top_groups = s.top_groups;
    p.scaling = 2.5f, p.normalise = s.normalise, p.score = s.score, p.dtype = dtype;
    point(s.biased);
  }
  RouteCase(const RouteCase& other) : RouteCase(other, other.p.bias != nullptr) {}

  void on_cpu() {
    run_items(p, 0, p.rows, cpu::route_scratch, cpu::route);
    const cpu::Scratch order(1, cpu::route_order_scratch(p));
    REQUIRE(order);
    cpu::route_order(p, order.part(0));
  }

  void require_same(const RouteCase& other) const {
    REQUIRE(expert == other.expert);
    REQUIRE(order == other.order);
    REQUIRE(offsets == other.offsets);
    for (size_t i = 0; i < weight.size(); ++i) {
      CAPTURE(i, weight[i], other.weight[i]);
      if (std::isnan(weight[i]) && std::isnan(other.weight[i])) continue;
      REQUIRE(std::abs(weight[i] - other.weight[i]) <= 1e-6f * std::abs(other.weight[i]));
    }
  }

 private:
  RouteCase(const RouteCase& other, bool biased)
      : logits(other.logits),
        bias(other.bias),
        weight(other.weight),
        expert(other.expert),
        order(other.order),
        offsets(other.offsets),
        p(other.p) {
    point(biased);
  }

  void point(bool biased) {
    p.logits = logits.data();
    p.bias = biased ? bias.data() : nullptr;
    p.expert = expert.data(), p.weight = weight.data();
    p.order = order.data(), p.offsets = offsets.data();
  }
};

struct CombineShape {
  int64_t rows, top_k, width, pad;
  int64_t shift;  // of the first row of y
};

inline const CombineShape kCombines[] = {
    {1, 1, 1, 0, 0},  {3, 8, 64, 0, 0}, {5, 4, 100, 0, 0},  {2, 2, 257, 7, 0},  {17, 6, 8, 8, 8},
    {4, 3, 16, 0, 1}, {3, 0, 24, 0, 0}, {2, 300, 16, 0, 0}, {1, 8, 4104, 0, 0}, {90, 8, 24, 0, 0}};

enum class Rounding { kOnce, kSums, kAll };
inline constexpr Rounding kRoundings[] = {Rounding::kOnce, Rounding::kSums, Rounding::kAll};

struct CombineCase {
  Values y;
  std::vector<float> weight;
  std::vector<int64_t> order, place;
  CombineParams p{};

  CombineCase(const CombineShape& s, DType dtype, Rounding rounding)
      : y(Values::normal(dtype, s.shift + s.rows * s.top_k * (s.width + s.pad), 1)),
        weight(s.rows * s.top_k),
        order(s.rows * s.top_k),
        place(s.rows * s.top_k) {
    std::mt19937 bits(7);
    for (float& w : weight) w = static_cast<float>(bits() % 1000) / 999;
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), bits);
    p.y = static_cast<char*>(y.data()) + s.shift * (dtype == DType::kFloat32 ? 4 : 2);
    p.y_stride = s.width + s.pad;
    p.order = order.data(), p.weight = weight.data(), p.place = place.data();
    p.rows = s.rows, p.top_k = s.top_k, p.width = s.width;
    p.full_precision = rounding == Rounding::kOnce;
    p.round_weights = rounding == Rounding::kAll, p.dtype = dtype;
  }
  CombineCase(const CombineCase&) = delete;

  void on_cpu(void* out) {
    p.out = out;
    REQUIRE(!cpu::combine_places(p));
    run_items(p, 0, p.rows, cpu::combine_scratch, cpu::combine);
  }
};

}  // namespace dpad::test
