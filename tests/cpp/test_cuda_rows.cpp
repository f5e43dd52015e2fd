// swiglu, add_rms_norm and suffix_gather in the emulator against plain loops that follow the twins'
// rounding.
#include <sys/mman.h>

#include <cstring>
#include <vector>

#include "catch.h"
#include "cuda/add_rms_norm.cuh"
#include "cuda/suffix_gather.cuh"
#include "cuda/swiglu.cuh"
#include "cuda_host.h"

using namespace dpad;
using namespace dpad::cuda;
using cuda::emulator::Order;
using Ints = std::vector<int64_t>;

namespace {

template <class T>
uint64_t bits(T x) {
  uint64_t out = 0;
  std::memcpy(&out, &x, sizeof x);
  return out;
}

const int64_t kWidths[] = {1, 3, 8, 31, 64, 129, 4096 / 4 + 8, 4096 + 8};

}  // namespace

TEST_CASE("every half converts to float and back; ties round to even") {
  for (uint32_t i = 0; i < 65536; ++i) {
    const Float16 half{static_cast<uint16_t>(i)};
    const BFloat16 brain{static_cast<uint16_t>(i)};
    if ((i & 0x7FFF) <= 0x7C00) REQUIRE(from_float<Float16>(to_float(half)).bits == i);
    if ((i & 0x7FFF) <= 0x7F80) REQUIRE(from_float<BFloat16>(to_float(brain)).bits == i);
  }
  CHECK(rounded<BFloat16>(1.0f + 0x1p-8f) == 1.0f);
  CHECK(rounded<BFloat16>(1.0f + 0x3p-8f) == 1.0f + 0x1p-6f);
  CHECK(rounded<Float16>(1.0f + 0x1p-11f) == 1.0f);
  CHECK(rounded<Float16>(0x3p-25f) == 0x2p-24f);
  CHECK(std::isinf(rounded<Float16>(65520.0f)));
}

TEST_CASE("swiglu kernel covers every element once, wide and narrow alike") {
  for_each_dtype([](auto zero) {
    using T = decltype(zero);
    for (const int64_t width : kWidths) {
      const int64_t rows = 3, stride = (width + kWide<T> - 1) / kWide<T> * kWide<T> + kWide<T>;
      Buffer<T> gate(rows * stride, 1), up(rows * stride, 2), out(rows * width + 1, 3);
      const uint64_t guard = bits(out[rows * width]);
      SwigluParams p{};
      p.gate = gate.data(), p.up = up.data(), p.out = out.data();
      p.gate_stride = p.up_stride = stride, p.rows = rows, p.width = width;
      CAPTURE(sizeof(T), width);
      REQUIRE(swiglu_wide<T>(p) == (width % kWide<T> == 0));
      for (const bool wide : {false, true}) {
        if (wide && !swiglu_wide<T>(p)) continue;
        std::memset(out.data(), 0xFF, rows * width * sizeof(T));
        emulator::run({2, 2, 1, kThreads},
                      [&] { wide ? swiglu_kernel<T, kWide<T>>(p) : swiglu_kernel<T, 1>(p); });
        for (int64_t i = 0; i < rows * width; ++i) {
          const int64_t at = i / width * stride + i % width;
          const float x = to_float(gate[at]);
          const double exact = x / (1 + std::exp(-static_cast<double>(x)));
          const float silu = to_float(from_float<T>(static_cast<float>(exact)));
          const float expected = to_float(from_float<T>(silu * to_float(up[at])));
          // One unit of the dtype where the float32 silu falls on the other side of a tie.
          const float unit = sizeof(T) == 4 ? 0x1p-22f : 0x1p-7f;
          REQUIRE(std::abs(to_float(out[i]) - expected) <= unit * std::abs(expected));
        }
        CHECK(bits(out[rows * width]) == guard);
      }
    }
  });
}

TEST_CASE("offsets beyond 2^31 elements") {
  const int64_t stride = (int64_t{1} << 31) + 8, rows = 3, width = 8;
  const size_t bytes = (rows - 1) * stride * sizeof(BFloat16) + 4096;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    WARN("not run: 8 GiB of address space could not be reserved");
    return;
  }
  auto* gate = static_cast<BFloat16*>(memory);
  for (int64_t i = 0; i < width; ++i) gate[2 * stride + i] = from_float<BFloat16>(20.0f + i);
  Buffer<BFloat16> up(rows * width, 1), out(rows * width, 2);
  for (int64_t i = 0; i < rows * width; ++i) up[i] = from_float<BFloat16>(1.0f);
  SwigluParams p{};
  p.gate = gate, p.up = up.data(), p.out = out.data();
  p.gate_stride = stride, p.up_stride = width, p.rows = rows, p.width = width;
  swiglu_row<BFloat16, 8>(p, 2, 0, 1);
  for (int64_t i = 0; i < width; ++i) CHECK(to_float(out[2 * width + i]) == 20.0f + i);
  munmap(memory, bytes);
}

namespace {

// Two blocks take three rows of `p` in turns; `start` is what the residual held before.
template <class T>
void check_norms(const AddRmsNormParams& p, Buffer<T>& start, Buffer<T>& delta, Buffer<T>& weight) {
  const T* residual = static_cast<const T*>(p.residual);
  const T* out = static_cast<const T*>(p.out);
  for (int64_t row = 0; row < p.rows; ++row) {
    double squares = 0;
    for (int64_t i = 0; i < p.width; ++i) {
      const int64_t at = row * p.residual_stride + i;
      float x = to_float(start[at]);
      if (p.delta != nullptr) x = rounded<T>(x + to_float(delta[at]));
      REQUIRE(to_float(residual[at]) == x);
      squares += double{x} * x;
    }
    const double scale = 1 / std::sqrt(squares / p.width + 1e-5);
    for (int64_t i = 0; i < p.width; ++i) {
      const float x = to_float(residual[row * p.residual_stride + i]);
      const double expected = x * scale * to_float(weight[i]);
      const double unit = sizeof(T) == 4 ? 0x1p-21 : 0x1p-7;
      const double got = to_float(out[row * p.width + i]);
      REQUIRE(std::abs(got - expected) <= unit * std::abs(expected) + 1e-7);
    }
  }
}

}  // namespace

TEST_CASE("add_rms_norm kernel: the sum in place, the norm within rounding") {
  for_each_dtype([](auto zero) {
    using T = decltype(zero);
    for (const int64_t width : kWidths) {
      for (const bool with_delta : {false, true}) {
        const int64_t rows = 3, stride = (width + kWide<T> - 1) / kWide<T> * kWide<T> + kWide<T>;
        Buffer<T> start(rows * stride, 1), delta(rows * stride, 2), weight(width, 3);
        for (const Order order : {Order::kForward, Order::kBackward, Order::kShuffled}) {
          Buffer<T> residual(rows * stride, 1), out(rows * width, 4);
          AddRmsNormParams p{};
          p.residual = residual.data(), p.delta = with_delta ? delta.data() : nullptr;
          p.weight = weight.data(), p.out = out.data();
          p.residual_stride = p.delta_stride = stride, p.rows = rows, p.width = width;
          p.eps = 1e-5f;
          const bool wide = add_rms_norm_wide<T>(p);
          CAPTURE(sizeof(T), width, with_delta);
          REQUIRE(wide == (width % kWide<T> == 0));
          emulator::run({2, 1, 1, kThreads, 0, order}, [&] {
            wide ? add_rms_norm_kernel<T, kWide<T>>(p) : add_rms_norm_kernel<T, 1>(p);
          });
          check_norms(p, start, delta, weight);
        }
      }
    }
  });
}

TEST_CASE("rows find their sequences, whatever the offsets hold") {
  const Ints offsets{0, 2, 2, 2, 5, 6};
  const int64_t expected[] = {0, 0, 3, 3, 3, 4, -1, -1};
  for (int64_t row = 0; row < 8; ++row) CHECK(sequence_of(offsets.data(), 5, row) == expected[row]);
  CHECK(sequence_of(offsets.data(), 0, 0) == -1);
  const Ints broken{0, 90, -5, 3};
  for (int64_t row = 0; row < 100; ++row) {
    const int64_t b = sequence_of(broken.data(), 3, row);
    CHECK((b == -1 || (broken[b] <= row && row < broken[b + 1])));
  }
}

TEST_CASE("a warp finds the sequence of a row, whatever the offsets hold") {
  std::mt19937 bits(3);
  for (const bool broken : {false, true}) {
    Ints offsets{0};
    for (int b = 0; b < 80; ++b) {
      offsets.push_back(broken ? bits() % 200 : offsets.back() + bits() % 4 * (bits() % 2));
    }
    const int64_t rows = 200;
    Ints found(32 * rows);
    emulator::run({rows, 1, 1, 32}, [&] {
      found[32 * block_x() + thread_index()] = warp_sequence_of(offsets.data(), 80, block_x());
    });
    for (int64_t i = 0; i < 32 * rows; ++i) {
      const int64_t row = i / 32, b = found[i];
      REQUIRE((b == -1 || (offsets[b] <= row && row < offsets[b + 1])));
      if (!broken) REQUIRE(b == sequence_of(offsets.data(), 80, row));
    }
  }
}

TEST_CASE("suffix_gather kernel: hidden prompt, and a token for everything out of range") {
  const Ints canvas{10, 11, 12, 13, -1, 20, 21, 22, 23, -1};
  const Ints canvas_row{1, 0, 7}, offsets{0, 3, 6, 7}, hidden{0, 2, 0};
  const Ints position{3, 0, 4, 1, 2, -1, 0, 0};
  SuffixGatherParams p{};
  p.canvas = canvas.data(), p.canvas_stride = 5, p.canvas_row = canvas_row.data();
  p.q_offsets = offsets.data(), p.position = position.data(), p.hidden_until = hidden.data();
  p.batch = 3, p.mask_id = 99, p.rows = 8, p.canvas_rows = 2, p.length = 4;
  const int64_t expected[] = {23, 20, 99, 99, 12, 99, 99, 99};
  Ints out(8, -9);
  p.out = out.data();
  emulator::run({1, 1, 1, kThreads}, [&] { suffix_gather_kernel(p); });
  CHECK(out == Ints(std::begin(expected), std::end(expected)));
  p.hidden_until = nullptr;
  CHECK(suffix_gather_row(p, 3) == 11);
}
