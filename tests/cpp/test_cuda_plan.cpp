// The index maths of block_attention: how its blocks divide the work among themselves, on sequences
// of any rows and keys, and how tiles lie in shared memory.
#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "catch.h"
#include "cuda/block_attention.cuh"

using namespace dpad;
using cuda::emulator::Order;
using Ints = std::vector<int64_t>;

namespace {

// Sequences of the given query rows and keys, on ranges of their own.
struct Pass {
  static constexpr int64_t kCapacity = 1 << 13;
  Ints offsets{0}, kv_start, n_keys;
  BlockAttentionParams p{};

  Pass(const Ints& rows, const Ints& keys, int64_t heads, int64_t kv_heads) : n_keys(keys) {
    for (const int64_t r : rows) offsets.push_back(offsets.back() + r);
    for (size_t b = 0; b < rows.size(); ++b)
      kv_start.push_back(static_cast<int64_t>(b) * kCapacity);
    p.q_offsets = offsets.data(), p.kv_start = kv_start.data(), p.n_keys = n_keys.data();
    p.batch = static_cast<int64_t>(rows.size()), p.q_rows = offsets.back();
    p.num_heads = heads, p.num_kv_heads = kv_heads;
    p.slots = p.batch * kCapacity;
  }
  Pass(const Pass&) = delete;

  // What every block finds, in every lane of its warp.
  std::vector<cuda::AttentionTask> tasks(int parts) const {
    const int64_t tiles = cuda::most_tiles(p.q_rows, p.batch, cuda::group_of(p));
    const int64_t blocks = cuda::attention_blocks(tiles, parts);
    std::vector<cuda::AttentionTask> found(32 * (blocks + 1));
    cuda::emulator::run({blocks + 1, 1, 1, 32, 0, Order::kShuffled}, [&] {
      const int block = static_cast<int>(cuda::block_x());
      found[32 * block + cuda::thread_index()] = cuda::find_task(p, parts, block, 0);
    });
    return found;
  }

  // Parts of the keys of every sequence's tiles.
  std::vector<int> splits(int parts) const {
    std::vector<int> result(p.batch, 0);
    for (const cuda::AttentionTask& task : tasks(parts)) {
      if (task.sequence >= 0) result[task.sequence] = task.splits;
    }
    return result;
  }
};

}  // namespace

TEST_CASE("blocks take every part of every tile once, and there are always enough") {
  std::mt19937 bits(1);
  for (int turn = 0; turn < 120; ++turn) {
    const int64_t batch = 1 + bits() % (turn % 4 ? 6 : 80), group = 1 + bits() % 8;
    Ints rows, keys;
    for (int64_t b = 0; b < batch; ++b) {
      rows.push_back(bits() % 3 ? bits() % 60 : 0);
      keys.push_back(bits() % 3 ? bits() % 8000 : bits() % 130);
    }
    Pass pass(rows, keys, 2 * group, 2);
    if (turn % 3 == 0) pass.n_keys[bits() % batch] = -1;
    const int parts = turn % 5 ? 1 + static_cast<int>(bits() % 130) : 1;
    const auto found = pass.tasks(parts);
    size_t next = 0;
    std::set<int> places;
    for (int64_t b = 0; b < batch; ++b) {
      const int all = static_cast<int>(rows[b] * group);
      for (int first = 0; first < all; first += cuda::kTileRows) {
        const int splits = found[32 * next].splits;
        for (int split = 0; split < splits; ++split, ++next) {
          REQUIRE(32 * next < found.size());
          for (int lane = 0; lane < 32; ++lane) {
            const cuda::AttentionTask& task = found[32 * next + lane];
            REQUIRE((task.sequence == b && task.first == first && task.split == split));
            REQUIRE(task.count == std::min(all - first, cuda::kTileRows));
            REQUIRE((task.splits == splits && task.part == found[32 * next].part));
          }
          if (splits == 1) continue;
          const int part = found[32 * next].part;
          REQUIRE((part == found[32 * (next - split)].part + split && part < parts));
          REQUIRE(places.insert(part).second);
        }
        REQUIRE((splits >= 1 && splits <= cuda::kMaxSplits));
        REQUIRE((splits == 1 || 2 * cuda::kKeyTile * (splits - 1) < pass.n_keys[b]));
      }
    }
    REQUIRE(32 * next < found.size());  // the block beyond the launched ones finds nothing
    for (size_t i = 32 * next; i < found.size(); ++i) REQUIRE(found[i].sequence == -1);
  }
}

TEST_CASE("keys are split over the machine by what the sequences hold, not by how many there are") {
  const auto parts = [](const Pass& pass) { return cuda::attention_parts(pass.p, 132); };
  const Pass llada({32}, {1024}, 32, 32);
  CHECK(parts(llada) == 8);
  CHECK(llada.splits(8) == std::vector<int>{8});
  const Pass dream({33}, {8192}, 28, 4);
  CHECK(parts(dream) == 66);
  CHECK(dream.splits(66) == std::vector<int>{22});
  // Padding, of any rows, and empty sequences leave the split as it is.
  const Pass padded({32, 16}, {1024, 1}, 32, 32);
  CHECK(parts(padded) == 8);
  CHECK(padded.splits(8) == std::vector<int>{8, 1});
  const Pass empty({0, 32, 0, 0, 0}, {4096, 1024, 700, 0, 1}, 32, 32);
  CHECK(empty.splits(8) == std::vector<int>{0, 8, 0, 0, 0});
  // Long sequences take more parts than short ones; many sequences fill the machine by themselves.
  const Pass uneven({32, 32}, {8192, 1024}, 32, 32);
  CHECK(uneven.splits(8) == std::vector<int>{6, 1});
  const Pass many(Ints(16, 32), Ints(16, 4096), 32, 32);
  CHECK(many.splits(parts(many)) == std::vector<int>(16, 1));
  // Nothing is split where even one sequence has enough tiles, or too few keys fit into the cache.
  const Pass refresh({1056}, {1056}, 32, 32);
  CHECK(parts(refresh) == 1);
  Pass small({32}, {100}, 4, 4);
  small.p.slots = 128;
  CHECK(parts(small) == 1);
}

TEST_CASE("parts cover the key tiles in order, as even as they allow") {
  for (const int keys : {0, 1, 63, 64, 65, 1000, 4096}) {
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
}

TEST_CASE("the warps of a block take every row and key of a tile once") {
  for (int rows = 1; rows <= cuda::kTileRows; ++rows) {
    std::set<std::pair<int, int>> taken;
    for (int warp = 0; warp < cuda::kTileWarps; ++warp) {
      const cuda::WarpPlace place = cuda::warp_place(rows, warp);
      REQUIRE((place.first_key == place.last_key) == (place.part >= place.parts));
      for (int key = place.first_key; key < place.last_key; ++key) {
        REQUIRE(taken.insert({place.row, key}).second);
      }
    }
    REQUIRE(taken.size() == static_cast<size_t>((rows + 15) / 16 * cuda::kKeyTile));
    REQUIRE(taken.rbegin()->first < rows);
    REQUIRE(taken.rbegin()->first % 16 == 0);
  }
}

TEST_CASE("two blocks fit into the shared memory of a processor, as the registers' budget asks") {
  const auto twice = [](int bytes) { return 2 * (bytes + 1024); };  // 1 KiB each is reserved
  CHECK(twice(cuda::AttentionShape<cuda::BFloat16, 128>::kSharedBytes) <= 164 << 10);
  CHECK(twice(cuda::AttentionShape<cuda::BFloat16, 64>::kSharedBytes) <= 100 << 10);
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
