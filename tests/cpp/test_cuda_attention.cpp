// The kernels of block_attention in the emulator against float64: tensor-core layouts, split keys,
// merges, masks and limits; and the index maths that cuts a call up.
#include <sys/mman.h>

#include <algorithm>
#include <set>

#include "attention_case.h"
#include "cuda/block_attention.cuh"
#include "cuda/block_attention_simple.cuh"

using namespace dpad;
using namespace dpad::test;
using cuda::emulator::Order;

namespace {

constexpr Order kOrders[] = {Order::kForward, Order::kBackward, Order::kShuffled};

template <class S>
Values attend(
    AttentionCase& c, int splits, Order order,
    const std::function<void(BlockAttentionParams&)>& change = [](auto&) {}) {
  Values out(c.dtype, c.q_rows * c.shape.heads * c.shape.dim);
  for (int64_t i = 0; i < out.size(); ++i) out.set(i, 77);
  BlockAttentionParams p = c.params(out);
  change(p);
  REQUIRE(cuda::block_attention_fits(p));
  const int64_t group = p.num_heads / p.num_kv_heads;
  const int64_t tiles = cuda::most_tiles(p.q_rows, p.batch, group, S::kRows);
  std::vector<float> parts(tiles * p.num_kv_heads * splits * S::kPart, NAN);
  std::vector<unsigned> tickets(tiles * p.num_kv_heads, 0);
  cuda::emulator::run({splits, p.num_kv_heads, tiles, S::kBlock, S::kSharedBytes, order}, [&] {
    cuda::block_attention_kernel<S>(p, splits, parts.data(), tickets.data());
  });
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
void check_shape(Shape shape, DType dtype, bool masked, bool limited, int splits) {
  AttentionCase c(shape, dtype, masked, limited, 8);
  CAPTURE(shape.heads, shape.kv_heads, shape.dim, masked, limited, splits, S::kRows);
  const Values out = attend<S>(c, splits, Order::kForward);
  check(c, out, 1.1);
  CHECK(out == attend<S>(c, splits, Order::kShuffled));
}

template <class T>
DType dtype_of() {
  return std::is_same_v<T, cuda::BFloat16> ? DType::kBFloat16 : DType::kFloat16;
}

template <class T>
void check_type() {
  using Few64 = cuda::AttentionShape<T, 64, 2, 2>;
  using Many64 = cuda::AttentionShape<T, 64, 6, 1>;
  using Few128 = cuda::AttentionShape<T, 128, 2, 2>;
  using Many128 = cuda::AttentionShape<T, 128, 6, 1>;
  const DType dtype = dtype_of<T>();
  check_shape<Few64>({2, 1, 64}, dtype, false, false, 1);
  check_shape<Few64>({2, 1, 64}, dtype, true, true, 3);
  check_shape<Many64>({3, 1, 64}, dtype, true, true, 2);
  check_shape<Few128>({2, 2, 128}, dtype, false, true, 3);
  check_shape<Many128>({2, 1, 128}, dtype, true, false, 1);
}

}  // namespace

TEST_CASE("tensor-core kernel, bfloat16") { check_type<cuda::BFloat16>(); }

TEST_CASE("tensor-core kernel, float16") { check_type<cuda::Float16>(); }

TEST_CASE("tensor-core kernel: any order of blocks and threads gives the same bits") {
  using S = cuda::AttentionShape<cuda::BFloat16, 64, 2, 2>;
  AttentionCase c({2, 2, 64}, DType::kBFloat16, false, false, 0);
  for (const int splits : {1, 4, 7}) {
    const Values first = attend<S>(c, splits, Order::kForward);
    for (const Order order : kOrders) CHECK(first == attend<S>(c, splits, order));
  }
}

TEST_CASE("tensor-core kernel: a NaN stays in its row") {
  using S = cuda::AttentionShape<cuda::BFloat16, 64, 2, 2>;
  AttentionCase c({1, 1, 64}, DType::kBFloat16, false, false, 0);
  const Values good = attend<S>(c, 2, Order::kForward);
  c.q.set(30 * c.row_stride + 3, NAN);
  const Values bad = attend<S>(c, 2, Order::kForward);
  for (int64_t i = 0; i < bad.size(); ++i) {
    if (i / 64 == 30 ? !std::isnan(bad[i]) : bad[i] != good[i]) FAIL("element " << i);
  }
}

TEST_CASE("tensor-core kernel: rows whose sequence is out of range") {
  using S = cuda::AttentionShape<cuda::BFloat16, 64, 2, 2>;
  AttentionCase c({1, 1, 64}, DType::kBFloat16, false, false, 0);
  const Values good = attend<S>(c, 3, Order::kForward);
  // Sequence 1 (rows 1 to 17): no such cache row, too many keys; sequence 3: offsets that fall.
  const Ints rows{2, kCacheRows, 1, 0}, keys{0, kCapacity + 1, 5, 230}, fall{0, 1, 18, 18, 17};
  const auto state = [&](const Values& out, int64_t row) {
    bool nan = true, same = true, untouched = true;
    for (int64_t i = row * 64; i < (row + 1) * 64; ++i) {
      nan = nan && std::isnan(out[i]);
      same = same && out[i] == good[i];
      untouched = untouched && out[i] == 77;
    }
    return nan ? 'n' : same ? 's' : untouched ? 'u' : '?';
  };
  const Values no_row = attend<S>(c, 3, Order::kForward, [&](auto& p) { p.cache_row = &rows[0]; });
  const Values no_key = attend<S>(c, 3, Order::kForward, [&](auto& p) { p.n_keys = &keys[0]; });
  const Values falling = attend<S>(c, 3, Order::kForward, [&](auto& p) { p.q_offsets = &fall[0]; });
  const Ints far{0, 1, 18, 18, 95};  // more rows than there are
  const Values beyond = attend<S>(c, 3, Order::kForward, [&](auto& p) { p.q_offsets = &far[0]; });
  CHECK(beyond == falling);
  for (int64_t row = 0; row < c.q_rows; ++row) {
    const char want = row >= 1 && row < 18 ? 'n' : 's';
    if (state(no_row, row) != want || state(no_key, row) != want) FAIL("row " << row);
    if (state(falling, row) != (row >= 18 ? 'u' : 's')) FAIL("row " << row);
  }
}

TEST_CASE("tensor-core kernel: offsets beyond 2^31 elements") {
  using S = cuda::AttentionShape<cuda::BFloat16, 64, 2, 2>;
  const int64_t stride = (int64_t{1} << 31) + 64, keys = 70;
  const size_t bytes = (stride + keys * 64) * 2;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    WARN("not run: 4 GiB of address space could not be reserved");
    return;
  }
  AttentionCase c({1, 1, 64}, DType::kBFloat16, false, false, 0);
  c.n_keys = {0, keys, 0, 0}, c.cache_row = {0, 1, 0, 0};
  auto* far = static_cast<uint16_t*>(memory) + stride;
  std::memcpy(far, static_cast<uint16_t*>(c.k.data()) + kCapacity * 64, keys * 128);
  const Values near = attend<S>(c, 2, Order::kForward);
  const Values out = attend<S>(c, 2, Order::kForward,
                               [&](auto& p) { p.k_cache = memory, p.k_cache_stride = stride; });
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
  const Ints rows{-1, 0, 1, 0}, offsets{0, 1, 18, 18, 90};
  const Values bad = attend_simply<float>(c, Order::kForward, -1, [&](auto& p) {
    p.cache_row = rows.data();
    p.q_offsets = offsets.data();
  });
  for (int64_t i = 0; i < bad.size(); ++i) {
    const int64_t row = i / 66;
    if (row == 0 || row == 90 ? !std::isnan(bad[i]) : bad[i] != good[i]) FAIL("row " << row);
  }
}

TEST_CASE("tiles hold every packed row once, and there are never more than the grid has") {
  std::mt19937 bits(1);
  for (int turn = 0; turn < 60; ++turn) {
    const int64_t batch = 1 + bits() % (turn % 4 ? 6 : 80);
    const int64_t group = 1 + bits() % 8, tile_rows = bits() % 2 ? 32 : 96;
    Ints offsets{0};
    for (int64_t b = 0; b < batch; ++b) offsets.push_back(offsets.back() + bits() % 40);
    BlockAttentionParams p{};
    p.q_offsets = offsets.data(), p.batch = batch, p.q_rows = offsets.back();
    p.num_heads = group * 2, p.num_kv_heads = 2;
    const int64_t tiles = cuda::most_tiles(p.q_rows, batch, group, tile_rows);
    // Block i finds tile i, every lane the same; the last block finds none.
    std::vector<cuda::RowTile> found(32 * (tiles + 1));
    cuda::emulator::run({tiles + 1, 1, 1, 32, 0, Order::kShuffled}, [&] {
      found[32 * cuda::block_x() + cuda::thread_index()] =
          cuda::find_tile(p, tile_rows, cuda::block_x());
    });
    int64_t next = 0;
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t rows = cuda::packed_rows(p, b);
      for (int64_t first = 0; first < rows; first += tile_rows, ++next) {
        REQUIRE(next < tiles);
        for (int lane = 0; lane < 32; ++lane) {
          const cuda::RowTile& tile = found[32 * next + lane];
          REQUIRE((tile.sequence == b && tile.first == first));
          REQUIRE(tile.count == std::min(rows - first, tile_rows));
        }
      }
    }
    for (size_t i = 32 * next; i < found.size(); ++i) REQUIRE(found[i].sequence == -1);
  }
}

TEST_CASE("splits cover the keys in order, and fill the machine") {
  for (const int64_t keys : {0, 1, 63, 64, 65, 1000, 4096}) {
    for (const int splits : {1, 2, 7, 32}) {
      int next = 0, most = 0, least = 1 << 30;
      for (int s = 0; s < splits; ++s) {
        const cuda::KeyRange range = cuda::split_range(keys, splits, s);
        REQUIRE(range.begin == next);
        REQUIRE(range.end >= range.begin);
        next = range.end;
        most = std::max(most, range.end - range.begin);
        least = std::min(least, range.end - range.begin);
      }
      REQUIRE(next == (keys + 63) / 64);
      REQUIRE(most - least <= 1);
    }
  }
  BlockAttentionParams p{};
  p.num_heads = p.num_kv_heads = 32, p.q_rows = 32, p.batch = 1, p.capacity = 4096;
  CHECK(cuda::attention_splits(p, 32, 132) == 8);
  p.batch = 16, p.q_rows = 16 * 32;
  CHECK(cuda::attention_splits(p, 32, 132) == 1);
  p.batch = 1, p.q_rows = 32, p.num_heads = 28, p.num_kv_heads = 4;
  CHECK(cuda::attention_splits(p, 96, 132) == 22);
  p.capacity = 100;
  CHECK(cuda::attention_splits(p, 96, 132) == 2);
  p.num_kv_heads = 1, p.num_heads = 1, p.q_rows = 1, p.capacity = 1 << 20;
  CHECK(cuda::attention_splits(p, 32, 132) == cuda::kMaxSplits);
}

TEST_CASE("two blocks fit into the shared memory of a processor, as the registers' budget asks") {
  const auto twice = [](int bytes) { return 2 * (bytes + 1024); };  // 1 KiB each is reserved
  CHECK(twice(cuda::AttentionShape<cuda::BFloat16, 128, 2, 2>::kSharedBytes) <= 164 << 10);
  CHECK(twice(cuda::AttentionShape<cuda::BFloat16, 128, 6, 1>::kSharedBytes) <= 164 << 10);
  CHECK(twice(cuda::AttentionShape<cuda::BFloat16, 64, 6, 1>::kSharedBytes) <= 100 << 10);
}

TEST_CASE("shared memory: every chunk has its place, and eight rows lie in different banks") {
  for (const int bytes : {128, 256}) {
    std::set<int> seen;
    for (int key = 0; key < cuda::kKeyTile; ++key) {
      for (int chunk = 0; chunk < bytes / 16; ++chunk) {
        const int at = cuda::chunk_offset(bytes, key, chunk);
        REQUIRE((at % 16 == 0 && at / bytes == key && seen.insert(at).second));
        // The kernel flips the bits of d instead of computing the offset of chunk 2 d again.
        REQUIRE(at == (cuda::chunk_offset(bytes, key, chunk % 2) ^ chunk / 2 << 5));
      }
    }
    for (int first = 0; first < cuda::kKeyTile; first += 8) {
      for (int chunk = 0; chunk < bytes / 16; ++chunk) {
        std::set<int> banks;
        for (int key = first; key < first + 8; ++key) {
          banks.insert(cuda::chunk_offset(bytes, key, chunk) % 128);
        }
        REQUIRE(banks.size() == 8);
      }
    }
  }
}
