// Names of the enumerations' values, in the order of their numbers. Python reads them from `_C`, so
// that no number is written a second time.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/plan.h"
#include "core/suffix.h"
#include "params.h"

namespace dpad {

inline constexpr const char* kRuleNames[] = {"threshold",     "factor",           "quota",
                                             "entropy_bound", "factor_published", "below",
                                             "at_least",      "entropy_sum"};
inline constexpr const char* kScopeNames[] = {"all", "suffix", "block"};
inline constexpr const char* kStatusNames[] = {"running", "block_done", "finished", "nan",
                                               "invalid"};
inline constexpr const char* kStopNames[] = {"never", "block", "text"};
inline constexpr const char* kSuffixNames[] = {"none", "all", "gaussian", "uniform", "window"};

template <int64_t N>
constexpr int64_t count_of(const char* const (&)[N]) {
  return N;
}

// The number of `name`, or -1.
template <int64_t N>
int64_t number_of(const char* const (&names)[N], const char* name) {
  for (int64_t i = 0; i < N; ++i) {
    if (std::strcmp(names[i], name) == 0) return i;
  }
  return -1;
}

static_assert(count_of(kRuleNames) == static_cast<int64_t>(Rule::kEntropySum) + 1);
static_assert(count_of(kScopeNames) == static_cast<int64_t>(Scope::kBlock) + 1);
static_assert(count_of(kStatusNames) == static_cast<int64_t>(SequenceStatus::kInvalid) + 1);
static_assert(count_of(kStopNames) == static_cast<int64_t>(Stop::kText) + 1);
static_assert(count_of(kSuffixNames) == static_cast<int64_t>(SuffixKind::kWindow) + 1);

}  // namespace dpad
