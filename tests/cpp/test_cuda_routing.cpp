// route and combine in the emulator against the CPU's operators.
#include "cuda/combine.cuh"
#include "cuda/route.cuh"
#include "cuda_host.h"
#include "routing_case.h"

using namespace dpad;
using namespace dpad::cuda;
using namespace dpad::test;
using cuda::emulator::Order;

namespace {

// Calls check(T{}) with the kernels' element type.
template <class Check>
void with_type(DType dtype, Check&& check) {
  dtype == DType::kFloat32    ? check(float{})
  : dtype == DType::kBFloat16 ? check(cuda::BFloat16{})
                              : check(cuda::Float16{});
}

constexpr Order kOrders[] = {Order::kForward, Order::kBackward, Order::kShuffled};

void run_route(RouteCase& c, int64_t blocks, Order order) {
  std::vector<int32_t> scratch(c.p.rows * RouteRow::words(c.p), -1);
  with_type(c.p.dtype, [&](auto zero) {
    emulator::run({blocks, 1, 1, kThreads, 0, order},
                  [&] { route_kernel<decltype(zero)>(c.p, scratch.data()); });
  });
  emulator::run({blocks, 1, 1, kThreads, 0, order}, [&] { route_order_kernel(c.p); });
}

}  // namespace

TEST_CASE("the sum before each thread of a block") {
  std::vector<int64_t> out(2 * kThreads);
  for (const Order order : kOrders) {
    emulator::run({1, 1, 1, kThreads, 0, order}, [&] {
      const int64_t t = thread_index();
      out[2 * t] = block_prefix(t % 7);
      out[2 * t + 1] = block_prefix(t * t);  // again in the same memory
    });
    int64_t first = 0, second = 0;
    for (int64_t t = 0; t < kThreads; ++t) {
      REQUIRE(out[2 * t] == first);
      REQUIRE(out[2 * t + 1] == second);
      first += t % 7, second += t * t;
    }
  }
}

TEST_CASE("ranks are in the order of the scores, NaN first, ties by number") {
  const float scores[] = {NAN, INFINITY, 1.5f, 1e-45f, 0.0f, -1e-45f, -2.0f, -INFINITY};
  for (int i = 0; i + 1 < 8; ++i) {
    CAPTURE(i);
    CHECK(key_of(scores[i]) > key_of(scores[i + 1]));
    CHECK(rank_of(key_of(scores[i]), 9) > rank_of(key_of(scores[i + 1]), 0));
    CHECK(rank_of(key_of(scores[i]), 3) > rank_of(key_of(scores[i]), 4));
    CHECK(number_of(rank_of(key_of(scores[i]), i)) == i);
    if (i > 0) CHECK(score_of(key_of(scores[i])) == scores[i]);
  }
  CHECK(std::isnan(score_of(key_of(NAN))));
  CHECK(key_of(-0.0f) == key_of(0.0f));
  CHECK(rank_of(kNeverKey, 0) < rank_of(key_of(-INFINITY), INT32_MAX));
  CHECK(rank_of(key_of(NAN), 0) < kBeforeAll);
}

TEST_CASE("route kernels choose what the CPU chooses, whatever the order of threads") {
  uint32_t seed = 0;
  for (const DType dtype : kTypes) {
    for (const RouteShape& s : kRouters) {
      CAPTURE(static_cast<int>(dtype), s.rows, s.experts, s.groups);
      RouteCase want(s, dtype, ++seed);
      const RouteCase start = want;
      want.on_cpu();
      for (const Order order : kOrders) {
        for (const int64_t blocks : {1, 3}) {
          RouteCase got = start;
          run_route(got, blocks, order);
          got.require_same(want);
        }
      }
    }
  }
}

TEST_CASE("route kernels: valid experts for rows that are not numbers") {
  for (const RouteShape& s : kRouters) {
    for (const float value : {NAN, INFINITY, -INFINITY}) {
      RouteCase want(s, DType::kFloat32, 3);
      for (int64_t e = 0; e < s.experts; ++e) want.logits.set(e, value);
      want.logits.set(want.logits.size() - 4, value);  // one expert of the last row
      RouteCase got = want;
      want.on_cpu();
      run_route(got, 2, Order::kShuffled);
      got.require_same(want);
      for (const int64_t e : got.expert) REQUIRE((e >= 0 && e < s.experts));
    }
  }
}

namespace {

template <class T>
void run_combine(const CombineCase& c, Order order, bool wide) {
  const auto shared = static_cast<size_t>(CombineTerms::bytes(c.p.top_k));
  emulator::run({2, 1, 1, kThreads, 0, order}, [&] { combine_places_kernel(c.p); });
  emulator::run({2, 1, 1, kThreads, shared, order},
                [&] { wide ? combine_kernel<T, kWide<T>>(c.p) : combine_kernel<T, 1>(c.p); });
}

}  // namespace

TEST_CASE("combine kernels give the CPU's bits") {
  for (const DType dtype : kTypes) {
    for (const CombineShape& s : kCombines) {
      for (const Rounding rounding : kRoundings) {
        CAPTURE(static_cast<int>(dtype), s.rows, s.top_k, s.width, static_cast<int>(rounding));
        CombineCase c(s, dtype, rounding);
        const int64_t size = s.rows * s.width;
        with_type(dtype, [&](auto zero) {
          using T = decltype(zero);
          Buffer<T> want(size, 1), got(size, 2);
          c.on_cpu(want.data());
          c.p.out = got.data();
          const bool fits = combine_wide<T>(c.p);
          for (const Order order : kOrders) {
            for (const bool wide : {false, true}) {
              if (wide && !fits) continue;
              std::fill(c.place.begin(), c.place.end(), -1);
              run_combine<T>(c, order, wide);
              REQUIRE(got.same_bits(want));
            }
          }
        });
      }
    }
  }
}

TEST_CASE("combine kernels: rows that lack a pair are NaN, the others as they should be") {
  CombineCase c({6, 3, 40, 0, 0}, DType::kFloat32, Rounding::kOnce);
  Buffer<float> want(6 * 40, 1), got(6 * 40, 2);
  c.on_cpu(want.data());
  // A pair twice, so that another is missing, and one out of range.
  const int64_t lost = c.order[5] / 3, other = c.order[11] / 3;
  c.order[5] = c.order[4], c.order[11] = 18;
  c.p.out = got.data();
  for (const int64_t garbage : {int64_t{-1}, int64_t{7}, INT64_MAX}) {
    std::fill(c.place.begin(), c.place.end(), garbage);
    run_combine<float>(c, Order::kForward, true);
    for (int64_t i = 0; i < 6 * 40; ++i) {
      CAPTURE(i, garbage);
      const int64_t row = i / 40;
      if (row == lost || row == other) {
        REQUIRE(std::isnan(got[i]));
      } else {
        REQUIRE(got[i] == want[i]);
      }
    }
  }
}
