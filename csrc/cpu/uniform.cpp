#include "cpu/uniform.h"

#include "core/gumbel.h"

namespace dpad::cpu {

void uniform(const UniformParams& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t* rng = p.rng + 3 * b;
    const PhiloxKey key = stream_key(rng[0], rng[1], Stream::kOrder);
    for (int64_t i = p.l_offsets[b]; i < p.l_offsets[b + 1]; ++i) {
      const int64_t at = p.position[i];
      const PhiloxCounter drawn = philox({{low32(at), high32(at), low32(rng[2]), 0}}, key);
      p.out[i] = uniform_of_words(drawn.word[0], drawn.word[1]);
    }
  }
}

}  // namespace dpad::cpu
