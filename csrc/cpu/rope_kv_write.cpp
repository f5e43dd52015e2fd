#include "cpu/rope_kv_write.h"

#include <algorithm>
#include <cstring>

#include "core/rows.h"
#include "cpu/rope_kv_write_head.h"

namespace dpad::cpu {
namespace {

const char* at(const void* base, int64_t element, int64_t width) {
  return static_cast<const char*>(base) + element * width;
}

char* at(void* base, int64_t element, int64_t width) {
  return static_cast<char*>(base) + element * width;
}

}  // namespace

int64_t rope_kv_write_tasks(const RopeKvWriteParams& p) {
  return p.head_dim == 0 ? 0 : p.q_rows + p.rows;
}

int64_t rope_kv_write_grain(const RopeKvWriteParams& p) {
  return 1 + (int64_t{1} << 15) / std::max<int64_t>(p.num_heads * p.head_dim, 1);
}

void rope_kv_write(const RopeKvWriteParams& p, int64_t begin, int64_t end) {
  const auto rotate = DPAD_PICK(rotate_heads);
  const int64_t width = p.dtype == DType::kFloat32 ? 4 : 2;  // bytes
  for (int64_t item = begin; item < end; ++item) {
    if (item < p.q_rows) {
      rotate(p, p.q_position[item], p.num_heads, at(p.q, item * p.q_row_stride, width),
             p.q_head_stride, at(p.q_out, item * p.num_heads * p.head_dim, width), p.head_dim);
      continue;
    }
    const int64_t row = item - p.q_rows;
    if (p.slot[row] < 0) continue;
    const int64_t slot = p.kv_start[sequence_of(p.q_offsets, p.batch, row)] + p.slot[row];
    const int64_t k_slot = slot * p.k_cache_slot_stride, v_slot = slot * p.v_cache_slot_stride;
    rotate(p, p.position[row], p.num_kv_heads, at(p.k, row * p.k_row_stride, width),
           p.k_head_stride, at(p.k_cache, k_slot, width), p.k_cache_head_stride);
    for (int64_t head = 0; head < p.num_kv_heads; ++head) {
      std::memcpy(at(p.v_cache, v_slot + head * p.v_cache_head_stride, width),
                  at(p.v, row * p.v_row_stride + head * p.v_head_stride, width),
                  static_cast<size_t>(p.head_dim * width));
    }
  }
}

}  // namespace dpad::cpu
