#include "cpu/block_attention.h"

#include <algorithm>

#include "cpu/block_attention_tile.h"

namespace dpad::cpu {
namespace {

int64_t rows_of(const BlockAttentionParams& p, int64_t sequence) {
  const int64_t queries = p.q_offsets[sequence + 1] - p.q_offsets[sequence];
  return queries * (p.num_heads / p.num_kv_heads);
}

int64_t tiles_of(const BlockAttentionParams& p, int64_t sequence) {
  return (rows_of(p, sequence) + kTileRows - 1) / kTileRows;
}

}  // namespace

int64_t block_attention_tasks(const BlockAttentionParams& p) {
  if (p.head_dim == 0) return 0;
  int64_t tiles = 0;
  for (int64_t b = 0; b < p.batch; ++b) tiles += tiles_of(p, b);
  return tiles * p.num_kv_heads;
}

int64_t block_attention_grain(const BlockAttentionParams& p) {
  int64_t keys = 1;
  for (int64_t b = 0; b < p.batch; ++b) keys = std::max(keys, p.n_keys[b]);
  return 1 + (int64_t{1} << 19) / (kTileRows * keys * std::max<int64_t>(p.head_dim, 1));
}

int64_t block_attention_scratch(const BlockAttentionParams& p) {
  return attention_scratch(p.head_dim) * static_cast<int64_t>(sizeof(float));
}

void block_attention(const BlockAttentionParams& p, int64_t begin, int64_t end, void* scratch) {
  const auto attend = DPAD_PICK(attend);
  int64_t before = 0;
  for (int64_t b = 0; b < p.batch && before < end; ++b) {
    const int64_t tiles = tiles_of(p, b), items = tiles * p.num_kv_heads;
    const int64_t last = std::min(end - before, items);
    for (int64_t item = std::max<int64_t>(begin - before, 0); item < last; ++item) {
      const int64_t first = item % tiles * kTileRows;
      const int64_t count = std::min(kTileRows, rows_of(p, b) - first);
      attend(p, {b, item / tiles, first, count}, static_cast<float*>(scratch));
    }
    before += items;
  }
}

}  // namespace dpad::cpu
