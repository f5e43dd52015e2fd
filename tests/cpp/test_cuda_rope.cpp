// rope_kv_write_ of the CUDA module in the emulator: the bits of a plain loop over the twin's
// formula.
#include <limits>
#include <utility>
#include <vector>

#include "catch.h"
#include "cuda/rope_kv_write.cuh"
#include "cuda_host.h"

using namespace dpad;
using namespace dpad::cuda;
using Ints = std::vector<int64_t>;

namespace {

constexpr int64_t kQRows = 3, kRows = 7, kHeads = 4, kKvHeads = 2, kPositions = 9;
constexpr int64_t kRanges = 3, kCapacity = 7, kArena = kRanges * kCapacity;

// Head vectors are padded by `pad` elements, so that strides are not the sizes.
template <class T>
struct Case {
  int64_t dim, pad, vector, half;
  Buffer<T> q, k, v, q_out, k_cache, v_cache;
  Buffer<float> cos, sin;
  Ints q_position{8, 0, kPositions}, position{0, 3, 8, 1, -1, 5, 2};
  Ints slot{0, 2, 6, -1, 1, kArena - 6, 3};
  Ints offsets{0, 1, 1, 6}, kv_start{0, 2 * kCapacity, 0, 6};  // the first is before the tensor
  RopeKvWriteParams p{};

  Case(int64_t head_dim, int64_t rotary_dim, int64_t padding, bool full_precision)
      : dim(head_dim),
        pad(padding),
        vector(head_dim + padding),
        half(rotary_dim / 2),
        q(kQRows * kHeads * vector, 1),
        k(kRows * kKvHeads * vector, 2),
        v(kRows * kKvHeads * vector, 3),
        q_out(kQRows * kHeads * dim, 4),
        k_cache(kKvHeads * kArena * vector, 5),
        v_cache(kKvHeads * kArena * vector, 6),
        cos(kPositions * half + 1, 7),
        sin(kPositions * half + 1, 8) {
    p.q = q.data(), p.k = k.data(), p.v = v.data();
    p.q_row_stride = kHeads * vector, p.q_head_stride = vector;
    p.k_row_stride = p.v_row_stride = kKvHeads * vector;
    p.k_head_stride = p.v_head_stride = vector;
    p.q_position = q_position.data(), p.position = position.data(), p.slot = slot.data();
    p.q_offsets = offsets.data(), p.kv_start = kv_start.data() + 1;
    p.cos = cos.data(), p.sin = sin.data(), p.q_out = q_out.data();
    p.k_cache = k_cache.data(), p.v_cache = v_cache.data();
    p.k_cache_head_stride = p.v_cache_head_stride = kArena * vector;
    p.k_cache_slot_stride = p.v_cache_slot_stride = vector;
    p.q_rows = kQRows, p.rows = kRows, p.num_heads = kHeads, p.num_kv_heads = kKvHeads;
    p.head_dim = dim, p.rotary_dim = rotary_dim;
    p.batch = 3, p.positions = kPositions, p.slots = kArena;
    p.full_precision = full_precision;
  }
};

template <class T>
void rotate_plainly(Case<T>& c, const T* in, T* out, int64_t position) {
  for (int64_t i = 0; i < c.half; ++i) {
    float co = c.cos[position * c.half + i], si = c.sin[position * c.half + i];
    const float low = to_float(in[i]), high = to_float(in[c.half + i]);
    float products[] = {low * co, -high * si, high * co, low * si};
    if (!c.p.full_precision) {
      co = rounded<T>(co), si = rounded<T>(si);
      products[0] = rounded<T>(low * co), products[1] = rounded<T>(-high * si);
      products[2] = rounded<T>(high * co), products[3] = rounded<T>(low * si);
    }
    out[i] = from_float<T>(products[0] + products[1]);
    out[c.half + i] = from_float<T>(products[2] + products[3]);
  }
  for (int64_t i = 2 * c.half; i < c.dim; ++i) out[i] = in[i];
}

// The rows of the case one after the other. Rows 3 to 6 are padding, a position out of range, a
// slot out of range, and a row without a sequence.
template <class T>
void run_plainly(Case<T>& c) {
  for (int64_t i = 0; i < kQRows * kHeads; ++i) {
    T* out = c.q_out.data() + i * c.dim;
    const int64_t position = c.q_position[i / kHeads];
    if (position < kPositions) {
      rotate_plainly(c, c.q.data() + i * c.vector, out, position);
    } else {
      for (int64_t d = 0; d < c.dim; ++d) out[d] = from_float<T>(0.0f);
    }
  }
  const int64_t start[] = {2 * kCapacity, 6, 6};
  for (int64_t row = 0; row < 3; ++row) {
    for (int64_t head = 0; head < kKvHeads; ++head) {
      const int64_t from = (row * kKvHeads + head) * c.vector;
      const int64_t to = (head * kArena + start[row] + c.slot[row]) * c.vector;
      rotate_plainly(c, c.k.data() + from, c.k_cache.data() + to, c.position[row]);
      for (int64_t d = 0; d < c.dim; ++d) c.v_cache[to + d] = c.v[from + d];
    }
  }
}

template <class T, int N>
void emulate(Case<T>& c) {
  const RopePieces pieces(c.p, N);
  emulator::run({std::max(c.p.q_rows, c.p.rows), pieces.q + pieces.k + pieces.v, 1, kThreads},
                [&] { rope_kv_write_kernel<T, N>(c.p); });
}

}  // namespace

TEST_CASE("rope_kv_write kernel gives the twin's bits and writes nothing else") {
  for_each_dtype([](auto zero) {
    using T = decltype(zero);
    struct Shape {
      int64_t dim, rotary, pad;
      bool wide;
    };
    const Shape shapes[] = {{16, 16, 0, true},   {64, 64, 16, true}, {64, 32, 0, true},
                            {24, 0, 8, true},    {16, 16, 3, false}, {18, 12, 0, false},
                            {20, 20, 12, false}, {2, 2, 0, false},   {1, 0, 0, false}};
    for (const Shape& shape : shapes) {
      for (const bool full_precision : {false, true}) {
        CAPTURE(sizeof(T), shape.dim, shape.rotary, shape.pad, full_precision);
        Case<T> expected(shape.dim, shape.rotary, shape.pad, full_precision);
        run_plainly(expected);
        for (const bool wide : {false, true}) {
          Case<T> c(shape.dim, shape.rotary, shape.pad, full_precision);
          if (wide && !rope_kv_write_wide<T>(c.p)) continue;
          wide ? emulate<T, kWide<T>>(c) : emulate<T, 1>(c);
          REQUIRE(c.q_out.same_bits(expected.q_out));
          REQUIRE(c.k_cache.same_bits(expected.k_cache));
          REQUIRE(c.v_cache.same_bits(expected.v_cache));
        }
      }
      const Case<T> c(shape.dim, shape.rotary, shape.pad, true);
      if (shape.wide) CHECK(rope_kv_write_wide<T>(c.p));
    }
    Case<T> c(16, 16, 0, true);
    c.p.k = c.k.data() + 1;
    CHECK_FALSE(rope_kv_write_wide<T>(c.p));
  });
}

TEST_CASE("slots outside the arena are not written") {
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  for (const auto& [first, last] : {std::pair{kArena, int64_t{-7}}, {kLargest, -kLargest}}) {
    Case<float> c(8, 8, 0, true), untouched(8, 8, 0, true);
    c.kv_start = {0, first, 0, last};  // slot 6 of the last one would be before the arena
    c.p.kv_start = c.kv_start.data() + 1;
    emulate<float, 4>(c);
    CHECK(c.k_cache.same_bits(untouched.k_cache));
    CHECK(c.v_cache.same_bits(untouched.v_cache));
  }
}
