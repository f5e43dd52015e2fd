// Standard Gumbel noise of one (row, vocabulary id): a pure function of the row's stream, so that
// every device samples the same token (Gumbel-max). Host and device code share this header, and the
// bits of a draw are the same everywhere.
//
// G = -log(E) with E = -log(1 - v) exponential. v comes from 64 random bits and keeps its full
// relative precision near 0, where the winners of a large vocabulary lie: 24-bit or 53-bit uniforms
// would cut the upper tail at 16.6 or 36.7 and so lower the temperature (arXiv 2409.02908).
#pragma once

#include <cmath>

#include "core/exact.h"
#include "core/philox.h"

namespace dpad {

// Every draw lies in [-3.81, kGumbelMax].
constexpr double kGumbelMax = 45.06;

// 64 bits, given as high and low word, as the uniform (n + 1/2) / 2^64.
DPAD_HOST_DEVICE inline double uniform_of_words(uint32_t high, uint32_t low) {
  return mul_rn(add_rn(add_rn(mul_rn(4294967296.0, high), low), 0.5), 0x1p-64);
}

DPAD_HOST_DEVICE inline double gumbel_of_words(uint32_t high, uint32_t low) {
  // 1 - v is formed from the complement of the bits where v is near 1.
  const double exponential = high < 0x80000000u ? minus_log_complement(uniform_of_words(high, low))
                                                : -log_rn(uniform_of_words(~high, ~low));
  return -log_rn(exponential);
}

// An upper bound of gumbel_of_words(high, *) without a logarithm, within 0.71 of it where v is
// small and high >= 2: drops the candidates that cannot win.
DPAD_HOST_DEVICE inline float gumbel_bound(uint32_t high) {
  const float floor = static_cast<float>(static_cast<int32_t>(high >> 1));  // <= v * 2^31
  int exponent = 0;
  if (floor > 0) exponent = ilogbf(floor) + 127;
  return static_cast<float>(158 - exponent) * 0.693147182f + 1e-3f;
}

// Counter of the draws of the vocabulary ids 2 * pair and 2 * pair + 1. The key is
// stream_key(seed, row_key, Stream::kNoise); id 2 * pair takes the words 0 (high) and 1 (low), the
// next id the words 2 and 3.
DPAD_HOST_DEVICE constexpr PhiloxCounter gumbel_counter(int64_t pair, int64_t position,
                                                        int64_t forward) {
  return {{low32(pair), low32(position), low32(forward), high32(position)}};
}

DPAD_HOST_DEVICE inline double gumbel_at(PhiloxCounter counter, PhiloxKey key, int64_t id) {
  const PhiloxCounter drawn = philox(counter, key);
  const int word = static_cast<int>(id & 1) * 2;
  return gumbel_of_words(drawn.word[word], drawn.word[word + 1]);
}

DPAD_HOST_DEVICE inline double gumbel_noise(PhiloxKey key, int64_t id, int64_t position,
                                            int64_t forward) {
  return gumbel_at(gumbel_counter(id >> 1, position, forward), key, id);
}

// The uniform draw that orders random remasking; `rng` holds seed, row key, number of the forward.
DPAD_HOST_DEVICE inline double order_draw(const int64_t* rng, int64_t position) {
  const PhiloxKey key = stream_key(rng[0], rng[1], Stream::kOrder);
  const PhiloxCounter drawn = philox({{low32(position), high32(position), low32(rng[2]), 0}}, key);
  return uniform_of_words(drawn.word[0], drawn.word[1]);
}

}  // namespace dpad
