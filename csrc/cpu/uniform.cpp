#include "cpu/uniform.h"

#include "core/gumbel.h"

namespace dpad::cpu {

void uniform(const UniformParams& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t i = p.l_offsets[b]; i < p.l_offsets[b + 1]; ++i) {
      p.out[i] = order_draw(p.rng + 3 * b, p.position[i]);
    }
  }
}

}  // namespace dpad::cpu
