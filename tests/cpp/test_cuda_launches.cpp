// What the launchers ask of the CUDA runtime: kernels that exist, launches that a GPU accepts, the
// stream that is given, and the error of a call that fails, after which nothing is queued.
#include <functional>

#include "cuda/add_rms_norm.h"
#include "cuda/block_attention.h"
#include "cuda/combine.h"
#include "cuda/confidence.h"
#include "cuda/rope_kv_write.h"
#include "cuda/route.h"
#include "cuda/suffix_gather.h"
#include "cuda/swiglu.h"
#include "cuda/uniform.h"
#include "cuda/unmask.h"
#include "cuda_launch.h"

using namespace dpad;
using namespace dpad::test;

namespace {

// Sizes of a call of each launcher; nothing is run, so there is no memory behind them.
struct Sizes {
  SuffixGatherParams gather{};
  RopeKvWriteParams rope{};
  BlockAttentionParams attention{};
  AddRmsNormParams norm{};
  SwigluParams swiglu{};
  RouteParams route{};
  CombineParams combine{};
  ConfidenceParams confidence{};
  UniformParams uniform{};
  UnmaskParams unmask{};

  Sizes(int64_t rows, DType dtype) {
    gather.rows = rope.rows = rope.q_rows = attention.q_rows = norm.rows = swiglu.rows = rows;
    confidence.rows = uniform.rows = unmask.rows = unmask.batch = rows;
    rope.num_heads = attention.num_heads = 8, rope.num_kv_heads = attention.num_kv_heads = 2;
    rope.head_dim = rope.rotary_dim = attention.head_dim = 128;
    rope.k_head_stride = rope.v_head_stride = 128;
    route.rows = combine.rows = rows, route.experts = 64, route.groups = 1;
    route.top_k = combine.top_k = 8, combine.width = 2048;
    route.dtype = combine.dtype = dtype;
    attention.batch = 1, attention.slots = 4096;
    norm.width = swiglu.width = 4096, confidence.vocab = 150000;
    rope.dtype = attention.dtype = norm.dtype = swiglu.dtype = confidence.dtype = dtype;
  }

  // Of every launcher its name and what it returns.
  void each(const std::function<void(const char*, const std::function<cudaError_t()>&)>& visit) {
    float scratch[4];  // never read
    visit("suffix_gather", [&] { return cuda::launch_suffix_gather(gather, kStream); });
    visit("rope_kv_write", [&] { return cuda::launch_rope_kv_write(rope, kStream); });
    visit("block_attention",
          [&] { return cuda::launch_block_attention(attention, scratch, kStream); });
    visit("add_rms_norm", [&] { return cuda::launch_add_rms_norm(norm, kStream); });
    visit("swiglu", [&] { return cuda::launch_swiglu(swiglu, kStream); });
    visit("route", [&] { return cuda::launch_route(route, scratch, kStream); });
    visit("combine", [&] { return cuda::launch_combine(combine, scratch, kStream); });
    visit("confidence", [&] { return cuda::launch_confidence(confidence, scratch, kStream); });
    visit("uniform", [&] { return cuda::launch_uniform(uniform, kStream); });
    visit("unmask", [&] { return cuda::launch_unmask(unmask, scratch, kStream); });
  }
};

bool row_by_row(const std::string& kernel) {
  return has({kernel}, "swiglu") || has({kernel}, "add_rms_norm") || has({kernel}, "rope") ||
         has({kernel}, "combine_kernel");
}

}  // namespace

TEST_CASE("launchers: every kernel is in the emulator's table, and the table has no other") {
  Names registered = fake_cuda().registered(), known;
  for (const auto& [name, kernel] : emulated_kernels()) known.push_back(name);
  std::sort(registered.begin(), registered.end());
  CHECK(registered == known);
}

TEST_CASE("launchers: without rows nothing is queued and nothing is asked for") {
  for (const DType dtype : kTypes) {
    Sizes none(0, dtype);
    none.attention.batch = 0;
    CHECK(cuda::block_attention_scratch(none.attention) == 0);
    CHECK(cuda::confidence_scratch(none.confidence) == 0);
    CHECK(cuda::unmask_scratch(none.unmask) == 0);
    CHECK(cuda::route_scratch(none.route) == 0);
    CHECK(cuda::combine_scratch(none.combine) == 0);
    none.each([](const char* name, const auto& launch) {
      CAPTURE(name);
      CHECK(launch() == cudaSuccess);
      CHECK(fake_cuda().queue.empty());
    });
  }
  Sizes flat(3, DType::kBFloat16);
  flat.norm.width = flat.swiglu.width = flat.combine.width = 0, flat.attention.num_heads = 0;
  CHECK(cuda::launch_add_rms_norm(flat.norm, kStream) == cudaSuccess);
  CHECK(cuda::launch_swiglu(flat.swiglu, kStream) == cudaSuccess);
  CHECK(cuda::launch_combine(flat.combine, nullptr, kStream) == cudaSuccess);
  CHECK(cuda::block_attention_scratch(flat.attention) == 0);
  CHECK(cuda::launch_block_attention(flat.attention, nullptr, kStream) == cudaSuccess);
  flat.attention.num_heads = 8, flat.attention.head_dim = 0;
  CHECK(cuda::block_attention_scratch(flat.attention) == 0);
  CHECK(cuda::launch_block_attention(flat.attention, nullptr, kStream) == cudaSuccess);
  CHECK(fake_cuda().queue.empty());
}

TEST_CASE("launchers: a GPU accepts every launch, on the stream that is given") {
  for (const DType dtype : kTypes) {
    for (const int64_t rows : {1, 31, 200, 65535, 65536, 70000, 3000000}) {
      Sizes sizes(rows, dtype);
      sizes.confidence.vocab = rows > 100000 ? 5000 : 150000;
      for (const int64_t batch : {int64_t{1}, rows}) {
        sizes.attention.batch = batch;
        sizes.each([&](const char* name, const auto& launch) {
          fake_cuda().reset();
          CAPTURE(name, rows, batch);
          REQUIRE(launch() == cudaSuccess);
          REQUIRE(!fake_cuda().queue.empty());
          for (const QueuedWork& work : fake_cuda().queue) REQUIRE(work.stream == kStream);
          // Kernels that could loop over rows need not while the grid has room.
          const QueuedWork& last = fake_cuda().queue.back();
          const uint64_t blocks = uint64_t{last.grid.x} * last.grid.y * last.grid.z;
          if (row_by_row(last.name)) REQUIRE(blocks >= std::min<uint64_t>(rows, 65535));
        });
      }
    }
  }
  fake_cuda().reset();
}

TEST_CASE("launchers: what no grid holds is refused before anything is queued") {
  Sizes sizes(int64_t{1} << 32, DType::kFloat32);
  CHECK(cuda::launch_block_attention(sizes.attention, nullptr, kStream) == cudaErrorInvalidValue);
  CHECK(cuda::launch_confidence(sizes.confidence, nullptr, kStream) == cudaErrorInvalidValue);
  CHECK(cuda::launch_unmask(sizes.unmask, nullptr, kStream) == cudaErrorInvalidValue);
  CHECK(cuda::launch_rope_kv_write(sizes.rope, kStream) == cudaErrorInvalidValue);
  CHECK(fake_cuda().queue.empty());
  // Heads that do not fit into a block's shared memory, beside 32 bytes that the kernel has.
  Sizes few(1, DType::kFloat32);
  for (const int64_t dim : {2456, 2457, 2458, 100000}) {
    fake_cuda().reset();
    few.attention.head_dim = dim;
    const cudaError_t code = cuda::launch_block_attention(few.attention, nullptr, kStream);
    CHECK(code == (dim == 2456 ? cudaSuccess : cudaErrorInvalidValue));
    CHECK(fake_cuda().queue.size() == (dim == 2456 ? 1 : 0));
    CHECK(cudaGetLastError() == cudaSuccess);
  }
  fake_cuda().reset();
}

TEST_CASE("launchers: the error of a call that fails comes back, and nothing more is queued") {
  for (const char* call : {"launch", "cudaFuncSetAttribute"}) {
    Sizes sizes(40, DType::kBFloat16);
    int failed = 0;
    sizes.each([&](const char* name, const auto& launch) {
      for (int skip = 0; skip < 3; ++skip) {
        fake_cuda().reset();
        CAPTURE(call, name, skip);
        REQUIRE(launch() == cudaSuccess);
        const size_t whole = fake_cuda().queue.size();
        fake_cuda().reset();
        fake_cuda().fail(call, cudaErrorMemoryAllocation, skip);
        const cudaError_t code = launch();
        if (fake_cuda().will_fail(call)) break;  // it does not make so many of these calls
        ++failed;
        CHECK(code == cudaErrorMemoryAllocation);
        CHECK(fake_cuda().queue.size() < whole);
        // The error has been reported: the next launch is not blamed for it.
        fake_cuda().queue.clear();
        CHECK(launch() == cudaSuccess);
        CHECK(fake_cuda().queue.size() == whole);
      }
    });
    if (std::string(call) == "launch") CHECK(failed >= 8);
  }
  fake_cuda().reset();
}

TEST_CASE("launchers: an error from before is not theirs") {
  Sizes sizes(40, DType::kFloat16);
  sizes.each([](const char* name, const auto& launch) {
    fake_cuda().reset();
    CAPTURE(name);
    int value = 0;
    CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 77) ==
          cudaErrorInvalidDevice);
    CHECK(launch() == cudaSuccess);
    CHECK(cudaGetLastError() == cudaErrorInvalidDevice);
  });
  fake_cuda().reset();
}
