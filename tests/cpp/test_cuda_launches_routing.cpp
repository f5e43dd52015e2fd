// The launchers of route and combine over many shapes against the CPU's operators.
#include "cuda/combine.h"
#include "cuda/route.h"
#include "cuda_launch.h"
#include "routing_case.h"

using namespace dpad;
using namespace dpad::test;

TEST_CASE("route, launched") {
  fake_cuda().reset();
  const Names types{"float", "BFloat16", "Float16"};
  for (const DType dtype : kTypes) {
    for (const RouteShape& s : kRouters) {
      CAPTURE(static_cast<int>(dtype), s.rows, s.experts, s.groups);
      RouteCase want(s, dtype, 11);
      RouteCase got = want;
      want.on_cpu();
      next_order();
      const Names names = launched(got.p, cuda::route_scratch, cuda::launch_route);
      REQUIRE(names ==
              Names{"route_kernel<" + types[static_cast<int>(dtype)] + ">", "route_order_kernel"});
      got.require_same(want);
    }
  }
}

TEST_CASE("combine, launched") {
  fake_cuda().reset();
  for (const DType dtype : kTypes) {
    const int64_t pack = 16 / Output::bytes_of(dtype);
    for (const CombineShape& s : kCombines) {
      for (const Rounding rounding : kRoundings) {
        CAPTURE(static_cast<int>(dtype), s.rows, s.top_k, s.width, static_cast<int>(rounding));
        CombineCase c(s, dtype, rounding);
        Output want(dtype, s.rows * s.width), got(dtype, s.rows * s.width);
        c.on_cpu(want.data());
        c.p.out = got.data(), c.p.place = nullptr;
        next_order();
        const bool wide = s.width % pack == 0 && s.pad % pack == 0 && s.shift % pack == 0;
        Names names = launched(c.p, cuda::combine_scratch, cuda::launch_combine);
        REQUIRE(names.back() == "combine_kernel" + packs(dtype, wide));
        names.pop_back();
        REQUIRE(names == (s.top_k > 0 ? Names{"combine_places_kernel"} : Names{}));
        REQUIRE(got == want);
        REQUIRE(got.intact());
      }
    }
  }
}

TEST_CASE("combine: more experts of a row than shared memory holds are refused") {
  fake_cuda().reset();
  float scratch[4];  // never read
  for (const int64_t top_k : {4096, 4097}) {
    CombineParams p{};
    p.rows = 1, p.width = 8, p.top_k = top_k;
    const cudaError_t code = cuda::launch_combine(p, scratch, kStream);
    CHECK(code == (top_k == 4096 ? cudaSuccess : cudaErrorInvalidValue));
    CHECK(fake_cuda().queue.size() == (top_k == 4096 ? 2 : 0));
    fake_cuda().reset();
  }
}
