#include "cpu/suffix_gather.h"

namespace dpad::cpu {

void suffix_gather(const SuffixGatherParams& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t* tokens = p.canvas + p.canvas_row[b] * p.canvas_stride;
    const int64_t hidden_until = p.hidden_until != nullptr ? p.hidden_until[b] : 0;
    for (int64_t row = p.q_offsets[b]; row < p.q_offsets[b + 1]; ++row) {
      const int64_t position = p.position[row];
      p.out[row] = position < hidden_until ? p.mask_id : tokens[position];
    }
  }
}

}  // namespace dpad::cpu
