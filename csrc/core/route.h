// The order in which a router ranks experts, the same on every device: by score, ties to the lowest
// number; a NaN stands before everything, as in torch.topk, so that it reaches the weights.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/philox.h"

namespace dpad {

// A score and the number of its owner, an int32, as one integer; the larger one is ranked first.
using Rank = int64_t;

constexpr Rank kBeforeAll = INT64_MAX;    // before the rank of anything
constexpr int32_t kNeverKey = INT32_MIN;  // behind every score

// Integers in the order of the scores; a NaN is the largest. -0 and 0 are one score.
DPAD_HOST_DEVICE inline int32_t key_of(float score) {
  if (score != score) return INT32_MAX;
  const float plain = score + 0.0f;
  int32_t bits;
  memcpy(&bits, &plain, sizeof bits);
  return bits >= 0 ? bits : bits ^ INT32_MAX;
}

DPAD_HOST_DEVICE inline float score_of(int32_t key) {
  const int32_t bits = key >= 0 ? key : key ^ INT32_MAX;
  float score;
  memcpy(&score, &bits, sizeof score);
  return score;  // INT32_MAX is a NaN's pattern
}

DPAD_HOST_DEVICE inline Rank rank_of(int32_t key, int64_t number) {
  return int64_t{key} * (int64_t{1} << 32) + (INT32_MAX - number);
}

DPAD_HOST_DEVICE inline int64_t number_of(Rank rank) { return INT32_MAX - (rank & 0xFFFFFFFF); }

// Kernels count experts, groups and top_k in int32, in steps of up to 32.
constexpr int64_t kMostExperts = int64_t{INT32_MAX} - 31;

// What ranks a group: the sum of its two best scores.
class BestTwo {
 public:
  DPAD_HOST_DEVICE void add(int32_t key) {
    if (key > first_) {
      second_ = first_;
      first_ = key;
    } else if (key > second_) {
      second_ = key;
    }
  }
  DPAD_HOST_DEVICE int32_t key() const { return key_of(score_of(first_) + score_of(second_)); }

 private:
  int32_t first_ = kNeverKey, second_ = kNeverKey;
};

// Keeps the weights of experts whose scores all underflowed finite; no other sum of scores is small
// enough to notice it. As the published sigmoid routers have it.
constexpr float kLeastWeightSum = 1e-20f;

}  // namespace dpad
