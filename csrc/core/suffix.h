// The kept suffix of a block (the scratchpad of DPad, arXiv 2508.14148, eq. 7 and algorithm 1).
//
// A table holds one integer threshold for each distance d = 0, 1, ... from the block's end;
// position e + d is kept when its 32-bit random word is below the threshold. Thresholds run from 0
// (never) to 2^32 (always), so the same set is kept on every device and compiler.
#pragma once

#include <cstdint>
#include <vector>

#include "core/error.h"

namespace dpad {

enum class SuffixKind : int32_t {
  kNone = 0,      // keep nothing
  kAll = 1,       // keep everything
  kGaussian = 2,  // independent draws, P(d) = min(1, scale / sqrt(2 pi) exp(-x^2 / 2))
  kUniform = 3,   // `count` of the first `window` positions, without replacement
  kWindow = 4,    // the first `window` positions
};

// Where the gaussian is sampled: x = decay d / (window - 1) as released, or decay d / window as
// printed in the paper.
enum class SuffixGrid : int32_t { kRepo = 0, kPaper = 1 };

struct SuffixSpec {
  SuffixKind kind = SuffixKind::kAll;
  SuffixGrid grid = SuffixGrid::kRepo;
  int64_t window = 0;
  double decay = 0;        // k
  double scale = 0;        // a; negative: found by bisection so that `count` positions are expected
  double count = 0;        // wanted (gaussian) or exact (uniform) number of kept positions
  int64_t near = 0;        // the nearest `near` positions are always kept
  bool keep_last = false;  // the last position of the canvas is always kept

  bool operator==(const SuffixSpec&) const = default;
};

// Most candidates (window) and most distances (length of a table or of a result): a position more
// than any canvas has, and few enough to be summed over in a bisection.
inline constexpr int64_t kMaxSuffix = int64_t{1} << 24;

inline constexpr uint64_t kAlways = uint64_t{1} << 32;

Error validate(const SuffixSpec& spec);
// Of a table or a result, by the name that the caller gave it.
Error validate_length(const char* argument, int64_t length);

// The scale `a` in force: spec.scale, or the bisected one, which each thread remembers of its last
// spec: draws of one kind follow each other, and finding it takes as long as many draws.
double resolved_scale(const SuffixSpec& spec);

// Thresholds for distances 0..length-1; `near` included, `keep_last` not (it depends on how much
// suffix is left). A uniform draw has no independent thresholds: count / window in each place.
std::vector<uint64_t> suffix_table(const SuffixSpec& spec, int64_t length);

// Expected number of kept positions when `remaining` suffix positions are left.
double expected_kept(const SuffixSpec& spec, int64_t remaining);

// Kept distances of one block in ascending order, from thresholds `table` (>= remaining entries
// unless the kind is all or uniform). Returns how many were written to `out` (room for remaining).
int64_t sample_suffix(const SuffixSpec& spec, const std::vector<uint64_t>& table, int64_t seed,
                      int64_t row_key, int64_t block, int64_t redraw, int64_t remaining,
                      int64_t* out);

}  // namespace dpad
