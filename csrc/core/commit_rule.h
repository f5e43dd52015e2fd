// How many of the ranked candidates unmask_ commits. Host and device code share this header.
#pragma once

#include "core/philox.h"
#include "params.h"

namespace dpad {

// True where low scores come first.
DPAD_HOST_DEVICE constexpr bool ascending(Rule rule) {
  return rule == Rule::kEntropyBound || rule == Rule::kBelow || rule == Rule::kEntropySum;
}

// Of the n >= 1 candidates those that the rule accepts; score(j) is the score of rank j.
template <class Score>
DPAD_HOST_DEVICE inline int64_t accepted(Rule rule, int64_t n, double rule_value,
                                         const Score& score) {
  int64_t m = 1;
  switch (rule) {
    case Rule::kThreshold:
    case Rule::kAtLeast:
      while (m < n && score(m) >= rule_value) ++m;
      return m;
    case Rule::kFactor:
      while (m < n && rule_value > 0 && (m + 2) * (1 - score(m)) <= rule_value) ++m;
      return m;
    case Rule::kFactorPublished:
      while (m < n && score(m) >= 1 - rule_value / (m + 2)) ++m;
      return m == n - 1 ? n : m;  // the released loop cannot tell a failure at the last candidate
    case Rule::kQuota:
      return n;
    case Rule::kEntropyBound: {
      // Entropy-bounded unmasking (arXiv 2505.24857): the sum of all committed entropies but the
      // largest stays within the bound. Scores ascend, so the largest is the newest.
      double smaller = score(0);
      while (m < n && smaller <= rule_value) smaller += score(m++);
      return m;
    }
    case Rule::kEntropySum: {
      double sum = score(0);
      while (m < n && (sum += score(m)) < rule_value) ++m;
      return m;
    }
    case Rule::kBelow:
      m = 0;
      while (m < n && score(m) < rule_value) ++m;
      return m;
  }
  return m;
}

// Of the n candidates those that are committed: at most `quota`, and by kAtLeast no fewer.
template <class Score>
DPAD_HOST_DEVICE inline int64_t commits(Rule rule, int64_t n, double rule_value, int64_t quota,
                                        const Score& score) {
  const int64_t most = quota < 0 ? 0 : quota;
  const int64_t m = n == 0 || most == 0 ? 0 : accepted(rule, n, rule_value, score);
  if (rule == Rule::kAtLeast) return m > most ? m : (most < n ? most : n);
  return m < most ? m : most;
}

}  // namespace dpad
