// The launcher of block_attention over many shapes and on several devices: the kernel that it
// chooses, and the result against the CPU's operator in float32.
#include "cpu/block_attention.h"
#include "cuda/block_attention.h"
#include "cuda_launch.h"

using namespace dpad;
using namespace dpad::test;

namespace {

const FakeDevice kTuring{0, 7, 40, 64 << 10}, kAmpere{2, 8, 84, 99 << 10}, kHopper{};

struct Heads {
  int64_t heads, kv_heads, dim;
};

struct Attention {
  Heads s;
  DType dtype;
  int64_t capacity, rows, q_stride, shift;
  Ints q_offsets, kv_start, n_keys, limit;
  Values q, k, v;
  std::unique_ptr<bool[]> mask;

  // Rows of queries are `pad` elements apart, the first one `start` elements into their memory.
  Attention(Heads heads, DType type, const Ints& counts, const Ints& keys, int64_t slots,
            int64_t pad = 0, int64_t start = 0)
      : s(heads),
        dtype(type),
        capacity(slots),
        rows(offsets_of(counts).back()),
        q_stride(s.heads * s.dim + pad),
        shift(start),
        q_offsets(offsets_of(counts)),
        n_keys(keys),
        q(Values::normal(type, shift + rows * q_stride, 1)),
        k(Values::normal(type, batch() * s.kv_heads * capacity * s.dim, 2)),
        v(Values::normal(type, k.size(), 3)) {
    for (int64_t b = 0; b < batch(); ++b) kv_start.push_back((batch() - 1 - b) * capacity);
  }

  int64_t batch() const { return static_cast<int64_t>(n_keys.size()); }

  void hide_some(bool keys, bool limits) {
    if (keys) mask = std::make_unique<bool[]>(batch() * capacity);
    for (int64_t i = 0; keys && i < batch() * capacity; ++i) mask[i] = i % 5 != 2;
    for (int64_t r = 0; limits && r < rows; ++r) limit.push_back(r * 37 % (capacity + 9) - 3);
  }

  BlockAttentionParams params() {
    BlockAttentionParams p{};
    p.q = element(q, shift), p.k_cache = k.data(), p.v_cache = v.data();
    p.q_row_stride = q_stride, p.q_head_stride = s.dim;
    p.k_slot_stride = p.v_slot_stride = s.dim;
    p.k_head_stride = p.v_head_stride = batch() * capacity * s.dim;
    p.q_offsets = q_offsets.data(), p.kv_start = kv_start.data(), p.n_keys = n_keys.data();
    p.key_mask = mask.get();
    p.key_limit = limit.empty() ? nullptr : limit.data();
    p.batch = batch(), p.num_heads = s.heads, p.num_kv_heads = s.kv_heads, p.head_dim = s.dim;
    p.q_rows = rows, p.slots = batch() * capacity;
    p.scale = 1 / std::sqrt(static_cast<float>(s.dim)), p.dtype = dtype;
    return p;
  }

  // The CPU's result in float32: the values' weighted sum, or that of their sizes.
  Output on_cpu(bool sizes) {
    const auto widened = [](Values& from, bool size) {
      Values to(DType::kFloat32, from.size());
      for (int64_t i = 0; i < from.size(); ++i) to.set(i, size ? std::abs(from[i]) : from[i]);
      return to;
    };
    Values q32 = widened(q, false), k32 = widened(k, false), v32 = widened(v, sizes);
    Output out(DType::kFloat32, rows * s.heads * s.dim);
    BlockAttentionParams p = params();
    p.q = element(q32, shift), p.k_cache = k32.data(), p.v_cache = v32.data();
    p.out = out.data(), p.dtype = DType::kFloat32;
    run_items(p, 0, cpu::block_attention_tasks(p), cpu::block_attention_scratch,
              cpu::block_attention);
    return out;
  }

  // The names of the kernels. Weights are rounded before the product with the values on tensor
  // cores, the result once more.
  Names check(const FakeDevice& device) {
    CAPTURE(s.heads, s.kv_heads, s.dim, static_cast<int>(dtype), batch(), rows, capacity);
    CAPTURE(q_offsets, n_keys, device.major, mask != nullptr, limit.empty());
    fake_cuda().device = device;
    next_order();
    Output out(dtype, rows * s.heads * s.dim);
    BlockAttentionParams p = params();
    p.out = out.data();
    const Names names = launched(p, cuda::block_attention_scratch, cuda::launch_block_attention);
    REQUIRE(out.intact());
    const Output want = on_cpu(false), size = on_cpu(true);
    const double weights = has(names, "simple") ? 0 : 1.1;
    for (int64_t i = 0; i < out.size(); ++i) {
      const double allowed = unit(dtype) * (weights * size[i] + std::abs(want[i])) + 4e-6;
      CAPTURE(i, out[i], want[i], allowed);
      if (!(std::abs(out[i] - want[i]) <= allowed)) FAIL();
    }
    return names;
  }
};

constexpr DType kHalves[] = {DType::kBFloat16, DType::kFloat16};

bool on_tensor_cores(const Names& names) {
  return has(names, "block_attention_kernel<AttentionShape<") && !has(names, "simple");
}

}  // namespace

TEST_CASE("block_attention, launched: 1 to 200 rows of a sequence") {
  fake_cuda().reset();
  for (int64_t rows = 1; rows <= 200; ++rows) {
    const int64_t keys = rows % 3 == 0 ? rows : rows % 3 == 1 ? 70 : 300 - rows;
    Attention c({1, 1, 64}, kHalves[rows % 2], {rows}, {keys}, std::max(keys, int64_t{90}));
    CHECK(on_tensor_cores(c.check(rows % 4 < 2 ? kHopper : kAmpere)));
    if (rows % 28 != 3) continue;
    Attention grouped({14, 2, 64}, kHalves[rows % 2], {rows / 3, 0, rows}, {keys, 1, 130}, 300, 8);
    CHECK(on_tensor_cores(grouped.check(kHopper)));
    Attention wide({8, 1, 128}, kHalves[rows % 2], {rows}, {keys}, 300);
    CHECK(on_tensor_cores(wide.check(kAmpere)));
  }
}

TEST_CASE("block_attention, launched: groups, heads, batches with empty sequences") {
  fake_cuda().reset();
  struct Shape {
    Heads heads;
    Ints counts, keys;
    int64_t capacity;
  };
  const Shape shapes[] = {
      {{7, 1, 64}, {5, 0, 1}, {130, 7, 64}, 130},
      {{8, 1, 128}, {0, 13, 0, 0, 4}, {9, 300, 1, 0, 65}, 300},
      {{14, 2, 64}, {1}, {700}, 700},
      {{28, 4, 128}, {3}, {129}, 200},
      {{4, 4, 128}, {32, 1}, {200, 0}, 256},
      {{2, 2, 64}, {0, 0}, {5, 5}, 64},
      {{1, 1, 128}, {1}, {1}, 1},
      {{3, 1, 128}, {40, 40}, {100, 33}, 128},
      {{2, 1, 64}, Ints(70, 1), Ints(70, 40), 64},
  };
  for (const Shape& shape : shapes) {
    for (const DType dtype : kHalves) {
      Attention c(shape.heads, dtype, shape.counts, shape.keys, shape.capacity);
      if (c.rows == 0) {
        CHECK(c.check(kHopper).empty());
        continue;
      }
      CHECK(on_tensor_cores(c.check(dtype == DType::kFloat16 ? kHopper : kAmpere)));
    }
  }
}

TEST_CASE("block_attention, launched: masks and limits") {
  fake_cuda().reset();
  for (const bool keys : {false, true}) {
    for (const bool limits : {false, true}) {
      Attention c({7, 1, 64}, DType::kBFloat16, {20, 0, 3}, {230, 4, 100}, 230, 8);
      c.hide_some(keys, limits);
      CHECK(on_tensor_cores(c.check(kHopper)));
      CHECK(has(c.check(kTuring), "block_attention_simple_kernel<BFloat16>"));
    }
  }
}

TEST_CASE("block_attention, launched: everything else runs in the simple kernel") {
  fake_cuda().reset();
  const auto simple = [](const Names& names, const char* type) {
    return names == Names{"block_attention_simple_kernel<" + std::string(type) + ">"};
  };
  for (const FakeDevice& device : {kTuring, kHopper}) {
    for (const int64_t dim : {1, 5, 64, 80, 128, 300}) {
      Attention c({3, 1, dim}, DType::kFloat32, {2, 0, 9}, {40, 1, 70}, 80, dim % 3);
      CHECK(simple(c.check(device), "float"));
    }
    Attention odd({2, 2, 80}, DType::kFloat16, {4, 1}, {50, 0}, 50);
    CHECK(simple(odd.check(device), "Float16"));
  }
  // Rows that cannot be moved 16 bytes at a time, and a GPU without these tensor cores.
  Attention padded({2, 1, 64}, DType::kBFloat16, {4, 1}, {50, 3}, 50, 4);
  CHECK(simple(padded.check(kHopper), "BFloat16"));
  Attention shifted({2, 1, 64}, DType::kBFloat16, {4, 1}, {50, 3}, 50, 0, 1);
  CHECK(simple(shifted.check(kHopper), "BFloat16"));
  Attention old({2, 1, 128}, DType::kFloat16, {4, 1}, {50, 3}, 50);
  CHECK(simple(old.check(kTuring), "Float16"));
}

TEST_CASE("block_attention, launched: devices of every size, one after the other") {
  fake_cuda().reset();
  // Keys for more parts than small devices have, so that they use all blocks and all scratch.
  for (const Heads heads : {Heads{2, 1, 64}, Heads{4, 2, 64}, Heads{2, 2, 128}}) {
    const int64_t per_head = heads.heads / heads.kv_heads;
    Attention c(heads, DType::kBFloat16, {190 / per_head, 10}, {600, 512}, 640);
    for (const int processors : {1, 2, 3, 4, 5, 13, 84, 160}) {
      FakeDevice device = kAmpere;
      device.processors = processors;
      const Names names = c.check(device);
      CHECK(on_tensor_cores(names));
      if (processors < 2 || processors > 12) {  // the tiles alone are as many as blocks are wanted
        CHECK(has(names, "block_attention_merge_kernel") == (processors > 12));
      }
    }
  }
}

TEST_CASE("block_attention, launched: a device that does not answer once") {
  fake_cuda().reset();
  Attention c({2, 1, 64}, DType::kBFloat16, {9, 2}, {600, 128}, 640);
  for (const char* call : {"cudaGetDevice", "cudaDeviceGetAttribute"}) {
    for (int skip = 0; skip < 5; ++skip) {  // for the size of the scratch memory, or at the launch
      CAPTURE(call, skip);
      fake_cuda().fail(call, cudaErrorDevicesUnavailable, skip);
      c.check(kHopper);
      CHECK(cudaGetLastError() == cudaSuccess);
    }
  }
  fake_cuda().reset();
}
