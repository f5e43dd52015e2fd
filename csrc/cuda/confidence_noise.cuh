// Gumbel noise on the logits of a row, and what it makes the best of some ids.
#pragma once

#include "core/gumbel.h"
#include "cuda/simt.cuh"
#include "params.h"

namespace dpad::cuda {

// The largest value and the lowest id that has it; -1: none.
template <class Real>
struct Best {
  Real value = -INFINITY;
  int64_t id = -1;

  DPAD_DEVICE void consider(Real other, int64_t other_id) {
    if (other_id < 0 || !(other > value || (other == value && (id < 0 || other_id < id)))) return;
    if (other == -INFINITY) return;
    value = other;
    id = other_id;
  }
};

// The noise of one row: the caller's, or the counter-based stream.
class Noise {
 public:
  DPAD_DEVICE Noise(const ConfidenceParams& p, int64_t row, int64_t sequence) {
    if (sequence < 0 || !(p.temperature[sequence] > 0)) return;
    temperature_ = p.temperature[sequence];
    if (p.noise != nullptr) {
      given_ = p.noise + row * p.noise_stride;
      return;
    }
    const int64_t* rng = p.rng + 3 * sequence;
    key_ = stream_key(rng[0], rng[1], Stream::kNoise);
    counter_ = gumbel_counter(0, p.position[row], rng[2]);
  }

  DPAD_DEVICE bool on() const { return temperature_ > 0; }
  DPAD_DEVICE bool given() const { return given_ != nullptr; }

  DPAD_DEVICE void consider_given(Best<double>& best, int64_t id, float x) const {
    best.consider(add_rn(double{x}, mul_rn(temperature_, given_[id])), id);
  }

  DPAD_DEVICE PhiloxCounter draw(int64_t id) const {
    PhiloxCounter counter = counter_;
    counter.word[0] = low32(id >> 1);
    return philox(counter, key_);
  }

  // The high word of the draw of `id`, out of that of its pair: selected, not indexed, as an index
  // would cost local memory.
  DPAD_DEVICE static uint32_t high_word(const PhiloxCounter& drawn, int64_t id) {
    return id & 1 ? drawn.word[2] : drawn.word[0];
  }

  // False: x with the noise of this high word cannot be as large as `best`. Without a logarithm.
  DPAD_DEVICE bool may_reach(double best, float x, uint32_t high) const {
    const double bound = x + temperature_ * gumbel_bound(high);
    return !(bound < best - 1e-6 * (fabs(best) + 220.0 * temperature_));
  }

  DPAD_DEVICE void consider(Best<double>& best, int64_t id, float x,
                            const PhiloxCounter& drawn) const {
    const uint32_t low = id & 1 ? drawn.word[3] : drawn.word[1];
    const double noise = gumbel_of_words(high_word(drawn, id), low);
    best.consider(add_rn(double{x}, mul_rn(temperature_, noise)), id);
  }

 private:
  double temperature_ = 0;
  const double* given_ = nullptr;
  PhiloxKey key_{};
  PhiloxCounter counter_{};
};

}  // namespace dpad::cuda
