// The kernels of block_attention in the emulator against float64: tensor-core layouts, split keys,
// merges, masks, limits and padding.
#include <sys/mman.h>

#include <limits>

#include "attention_case.h"
#include "cuda/block_attention.cuh"
#include "cuda/block_attention_simple.cuh"

using namespace dpad;
using namespace dpad::test;
using cuda::emulator::Order;

namespace {

constexpr Order kOrders[] = {Order::kForward, Order::kBackward, Order::kShuffled};

// Both kernels, the second where it is launched: `parts` > 1. In forward order twice on the same
// scratch memory, as a graph is replayed.
template <class S>
Values attend(
    AttentionCase& c, int parts, Order order,
    const std::function<void(BlockAttentionParams&)>& change = [](auto&) {}) {
  Values out(c.dtype, c.q_rows * c.shape.heads * c.shape.dim);
  BlockAttentionParams p = c.params(out);
  change(p);
  REQUIRE(cuda::block_attention_fits(p));
  const int64_t tiles = cuda::most_tiles(p.q_rows, p.batch, cuda::group_of(p));
  const int64_t blocks = cuda::attention_blocks(tiles, parts) * p.num_kv_heads;
  const int64_t merging = (p.q_rows * p.num_heads + 7) / 8;
  std::vector<float> scratch(parts * p.num_kv_heads * S::kPart + 1, NAN);
  const auto run = [&] {
    for (int64_t i = 0; i < out.size(); ++i) out.set(i, 77);
    cuda::emulator::run({blocks, 1, 1, S::kBlock, S::kSharedBytes, order},
                        [&] { cuda::block_attention_kernel<S>(p, parts, scratch.data()); });
    if (parts == 1) return;
    cuda::emulator::run({merging, 1, 1, cuda::kThreads, 0, order},
                        [&] { cuda::block_attention_merge_kernel<S>(p, parts, scratch.data()); });
  };
  run();
  REQUIRE(std::isnan(scratch.back()));
  if (order != Order::kForward) return out;
  const Values first = out;
  run();
  REQUIRE(out == first);
  return out;
}

// Errors in units of the dtype: weights are rounded before the product with the values, the result
// once more.
void check(const AttentionCase& c, const Values& out, double weights) {
  for (int64_t b = 0; b < 4; ++b) {
    for (int64_t r = c.q_offsets[b]; r < c.q_offsets[b + 1]; ++r) {
      for (int64_t h = 0; h < c.shape.heads; ++h) {
        const std::vector<double> want = c.exact(b, r, h), size = c.exact(b, r, h, true);
        for (int64_t d = 0; d < c.shape.dim; ++d) {
          const double got = out[(r * c.shape.heads + h) * c.shape.dim + d];
          const double allowed = unit(c.dtype) * (weights * size[d] + std::abs(want[d])) + 3e-6;
          if (!(std::abs(got - want[d]) <= allowed)) {
            FAIL("sequence " << b << " row " << r << " head " << h << " dim " << d << ": " << got
                             << ", expected " << want[d] << " within " << allowed);
          }
        }
      }
    }
  }
}

template <class S>
void check_shape(Shape shape, DType dtype, bool masked, bool limited, int parts) {
  AttentionCase c(shape, dtype, masked, limited, 8);
  CAPTURE(shape.heads, shape.kv_heads, shape.dim, masked, limited, parts);
  const Values out = attend<S>(c, parts, Order::kForward);
  check(c, out, 1.1);
  CHECK(out == attend<S>(c, parts, Order::kShuffled));
}

template <class T>
DType dtype_of() {
  return std::is_same_v<T, cuda::BFloat16> ? DType::kBFloat16 : DType::kFloat16;
}

template <class T>
void check_type() {
  using S64 = cuda::AttentionShape<T, 64>;
  using S128 = cuda::AttentionShape<T, 128>;
  const DType dtype = dtype_of<T>();
  check_shape<S64>({2, 1, 64}, dtype, false, false, 1);
  check_shape<S64>({2, 1, 64}, dtype, true, true, 3);
  check_shape<S64>({3, 1, 64}, dtype, true, true, 20);
  check_shape<S128>({2, 2, 128}, dtype, false, true, 5);
  check_shape<S128>({2, 1, 128}, dtype, true, false, 1);
  check_shape<S128>({3, 3, 128}, dtype, false, false, 8);
}

}  // namespace

TEST_CASE("tensor-core kernel, bfloat16") { check_type<cuda::BFloat16>(); }

TEST_CASE("tensor-core kernel, float16") { check_type<cuda::Float16>(); }

TEST_CASE("tensor-core kernel: any order of blocks and threads gives the same bits") {
  using S = cuda::AttentionShape<cuda::BFloat16, 64>;
  AttentionCase c({2, 2, 64}, DType::kBFloat16, false, false, 0);
  for (const int parts : {1, 4, 7}) {
    const Values first = attend<S>(c, parts, Order::kForward);
    for (const Order order : kOrders) CHECK(first == attend<S>(c, parts, order));
  }
}

TEST_CASE("tensor-core kernel: padding changes no bit of the sequences that are there") {
  using S = cuda::AttentionShape<cuda::BFloat16, 64>;
  AttentionCase c({2, 1, 64}, DType::kBFloat16, false, false, 8);
  // One sequence of 32 rows and 460 keys; then empty sequences before it, and padding behind it.
  const Ints alone{0, 32}, start{0}, keys{460};
  const Ints offsets{0, 0, 32, 32, 32, 48}, starts{460, 0, 920, 0, 0}, n_keys{230, 460, 460, 0, 1};
  for (const int parts : {1, 5, 8}) {
    const Values want = attend<S>(c, parts, Order::kForward, [&](auto& p) {
      p.batch = 1, p.q_rows = 32;
      p.q_offsets = alone.data(), p.kv_start = start.data(), p.n_keys = keys.data();
    });
    const Values got = attend<S>(c, parts, Order::kBackward, [&](auto& p) {
      p.batch = 5, p.q_rows = 48;
      p.q_offsets = offsets.data(), p.kv_start = starts.data(), p.n_keys = n_keys.data();
    });
    for (int64_t i = 0; i < 48 * 128; ++i) {
      // Rows of padding see one key, whose values they become.
      const float there = i < 32 * 128 ? want[i] : c.v[i % 64];
      if (got[i] != there) FAIL("element " << i << ": " << got[i] << ", expected " << there);
    }
  }
}

TEST_CASE("tensor-core kernel: as many parts as a warp has lanes, few rows to a block") {
  using S = cuda::AttentionShape<cuda::Float16, 64>;
  AttentionCase c({2, 2, 64}, DType::kFloat16, true, false, 8, 4200);
  c.q_offsets = {0, 1, 2, 2, 5};
  for (const int parts : {12, 100}) check(c, attend<S>(c, parts, Order::kBackward), 1.1);
}

TEST_CASE("tensor-core kernel: a NaN stays in its row") {
  using S = cuda::AttentionShape<cuda::BFloat16, 64>;
  AttentionCase c({1, 1, 64}, DType::kBFloat16, false, false, 0);
  const Values good = attend<S>(c, 2, Order::kForward);
  c.q.set(30 * c.row_stride + 3, NAN);
  const Values bad = attend<S>(c, 2, Order::kForward);
  for (int64_t i = 0; i < bad.size(); ++i) {
    if (i / 64 == 30 ? !std::isnan(bad[i]) : bad[i] != good[i]) FAIL("element " << i);
  }
}

TEST_CASE("tensor-core kernel: rows whose sequence is out of range") {
  using S = cuda::AttentionShape<cuda::BFloat16, 64>;
  AttentionCase c({1, 1, 64}, DType::kBFloat16, false, false, 0);
  const Values good = attend<S>(c, 3, Order::kForward);
  // Sequence 1 (rows 1 to 17): slots before, across and behind the ends of the arena, too many
  // keys; sequence 3: offsets that fall.
  const int64_t largest = std::numeric_limits<int64_t>::max();
  const Ints keys{0, c.arena + 1, 5, kCapacity}, fall{0, 1, 18, 18, 17};
  const auto state = [&](const Values& out, int64_t row) {
    bool nan = true, same = true, untouched = true;
    for (int64_t i = row * 64; i < (row + 1) * 64; ++i) {
      nan = nan && std::isnan(out[i]);
      same = same && out[i] == good[i];
      untouched = untouched && out[i] == 77;
    }
    return nan ? 'n' : same ? 's' : untouched ? 'u' : '?';
  };
  const auto from = [&](int64_t start) {
    const Ints starts{c.kv_start[0], start, c.kv_start[2], 0};
    return attend<S>(c, 3, Order::kForward, [&](auto& p) { p.kv_start = starts.data(); });
  };
  const Values before = from(-1), across = from(c.arena - 96), behind = from(c.arena + 1);
  CHECK(before == from(-largest));
  CHECK(across == behind);
  CHECK(across == from(largest));
  const Values no_key = attend<S>(c, 3, Order::kForward, [&](auto& p) { p.n_keys = &keys[0]; });
  const Values falling = attend<S>(c, 3, Order::kForward, [&](auto& p) { p.q_offsets = &fall[0]; });
  const Ints far{0, 1, 18, 18, 95};  // more rows than there are
  const Values beyond = attend<S>(c, 3, Order::kForward, [&](auto& p) { p.q_offsets = &far[0]; });
  CHECK(beyond == falling);
  for (int64_t row = 0; row < c.q_rows; ++row) {
    const char want = row >= 1 && row < 18 ? 'n' : 's';
    if (state(before, row) != want || state(across, row) != want) FAIL("row " << row);
    if (state(no_key, row) != want) FAIL("row " << row);
    if (state(falling, row) != (row >= 18 ? 'u' : 's')) FAIL("row " << row);
  }
}

TEST_CASE("tensor-core kernel: offsets beyond 2^31 elements") {
  using S = cuda::AttentionShape<cuda::BFloat16, 64>;
  const int64_t start = (int64_t{1} << 25) + 1, keys = 70;  // slots of 64 elements
  const size_t bytes = (start + keys) * 128;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    WARN("not run: 4 GiB of address space could not be reserved");
    return;
  }
  AttentionCase c({1, 1, 64}, DType::kBFloat16, false, false, 0);
  c.n_keys = {0, keys, 0, 0}, c.kv_start = {0, 0, 0, 0};
  std::memcpy(static_cast<char*>(memory) + start * 128, c.k.data(), keys * 128);
  const Values near =
      attend<S>(c, 2, Order::kForward, [&](auto& p) { p.v_cache = p.k_cache, p.slots = start; });
  c.kv_start = {0, start, 0, 0};
  const Values out = attend<S>(c, 2, Order::kForward, [&](auto& p) {
    p.k_cache = p.v_cache = memory;
    p.slots = start + keys;
  });
  CHECK(out == near);
  munmap(memory, bytes);
}

namespace {

template <class T>
Values attend_simply(
    AttentionCase& c, Order order, int64_t rows = -1,
    const std::function<void(BlockAttentionParams&)>& change = [](auto&) {}) {
  Values out(c.dtype, c.q_rows * c.shape.heads * c.shape.dim);
  BlockAttentionParams p = c.params(out);
  change(p);
  const int64_t blocks = (rows < 0 ? p.q_rows : rows) * p.num_heads;
  const auto bytes = static_cast<size_t>(cuda::simple_shared_bytes(p));
  cuda::emulator::run({blocks, 1, 1, cuda::kSimpleThreads, bytes, order},
                      [&] { cuda::block_attention_simple_kernel<T>(p); });
  return out;
}

}  // namespace

TEST_CASE("simple kernel: other head sizes and float32, any order, out of range") {
  for (const bool extra : {false, true}) {
    AttentionCase wide({3, 1, 5}, DType::kFloat32, extra, extra);
    const Values out = attend_simply<float>(wide, Order::kForward);
    check(wide, out, 0);
    CHECK(out == attend_simply<float>(wide, Order::kShuffled));
    AttentionCase half({2, 2, 40}, DType::kBFloat16, extra, extra);
    check(half, attend_simply<cuda::BFloat16>(half, Order::kBackward), 0);
  }
  AttentionCase c({2, 1, 33}, DType::kFloat32, false, false);
  const Values good = attend_simply<float>(c, Order::kForward);
  const Ints starts{-1, 0, kCapacity, 0}, offsets{0, 1, 18, 18, 90};
  const Values bad = attend_simply<float>(c, Order::kForward, -1, [&](auto& p) {
    p.kv_start = starts.data();
    p.q_offsets = offsets.data();
  });
  for (int64_t i = 0; i < bad.size(); ++i) {
    const int64_t row = i / 66;
    if (row == 0 || row == 90 ? !std::isnan(bad[i]) : bad[i] != good[i]) FAIL("row " << row);
  }
}
