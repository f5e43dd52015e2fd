#include "core/suffix.h"

#include <algorithm>
#include <cmath>

#include "core/names.h"
#include "core/philox.h"

namespace dpad {
namespace {

constexpr double kInvSqrt2Pi = 0.39894228040143267794;

double gaussian(const SuffixSpec& spec, double scale, int64_t distance) {
  if (distance >= spec.window) return 0;
  const int64_t cells = spec.grid == SuffixGrid::kRepo ? spec.window - 1 : spec.window;
  const double x = cells > 0 ? spec.decay * static_cast<double>(distance) / cells : 0;
  return std::min(1.0, scale * kInvSqrt2Pi * std::exp(-0.5 * x * x));
}

double gaussian_sum(const SuffixSpec& spec, double scale) {
  double sum = 0;
  for (int64_t d = 0; d < spec.window; ++d) sum += gaussian(spec, scale, d);
  return sum;
}

// The scale at which `count` positions of the window are expected.
double bisected_scale(const SuffixSpec& spec) {
  if (spec.count >= static_cast<double>(spec.window)) {
    return std::exp(0.5 * spec.decay * spec.decay) / kInvSqrt2Pi * 2;  // every P is clipped to 1
  }
  double low = 0, high = 1;
  while (gaussian_sum(spec, high) < spec.count) high *= 2;
  for (int i = 0; i < 200 && low < high; ++i) {
    const double middle = 0.5 * (low + high);
    if (middle <= low || middle >= high) break;
    (gaussian_sum(spec, middle) < spec.count ? low : high) = middle;
  }
  return high;
}

// Keep-probability of a distance before `near` and `keep_last`.
double probability(const SuffixSpec& spec, double scale, int64_t distance) {
  switch (spec.kind) {
    case SuffixKind::kNone:
      return 0;
    case SuffixKind::kAll:
      return 1;
    case SuffixKind::kGaussian:
      return gaussian(spec, scale, distance);
    case SuffixKind::kUniform:
      return distance < spec.window ? std::min(1.0, spec.count / spec.window) : 0;
    case SuffixKind::kWindow:
      return distance < spec.window ? 1 : 0;
  }
  return 0;
}

uint64_t threshold(double p) {
  if (p >= 1) return kAlways;
  return static_cast<uint64_t>(std::floor(std::max(p, 0.0) * static_cast<double>(kAlways)));
}

// The word of each distance of one draw; those that follow each other share a call of Philox.
class Words {
 public:
  Words(PhiloxKey key, int64_t block, int64_t redraw) : key_(key), block_(block), redraw_(redraw) {}

  uint32_t operator()(int64_t distance) {
    if (distance >> 2 != quad_) {
      quad_ = distance >> 2;
      drawn_ = suffix_words(key_, quad_, block_, redraw_);
    }
    return drawn_.word[distance & 3];
  }

 private:
  PhiloxKey key_;
  int64_t block_, redraw_, quad_ = -1;
  PhiloxCounter drawn_{};
};

// The uniform ablation as released: everything when `count` covers what is left (the window is then
// bypassed), else `count` of the first min(remaining, window) positions. The positions with the
// smallest random words are taken, ties to the nearer one.
int64_t sample_uniform(const SuffixSpec& spec, Words word, int64_t remaining,
                       std::vector<bool>& keep) {
  const auto count = static_cast<int64_t>(spec.count);
  if (count >= remaining) {
    keep.assign(remaining, true);
    return remaining;
  }
  const int64_t candidates = std::min(remaining, spec.window);
  std::vector<std::pair<uint32_t, int64_t>> drawn(candidates);
  for (int64_t d = 0; d < candidates; ++d) drawn[d] = {word(d), d};
  const int64_t taken = std::min(count, candidates);
  std::partial_sort(drawn.begin(), drawn.begin() + taken, drawn.end());
  for (int64_t i = 0; i < taken; ++i) keep[drawn[i].second] = true;
  return taken;
}

}  // namespace

Error validate(const SuffixSpec& spec) {
  const auto kind = static_cast<int32_t>(spec.kind);
  if (kind < 0 || kind >= count_of(kSuffixNames))
    return {"kind", "none, all, gaussian, uniform or window", -1, double(kind)};
  if (spec.near < 0) return {"near", "a count >= 0", -1, static_cast<double>(spec.near)};
  if (spec.kind == SuffixKind::kNone || spec.kind == SuffixKind::kAll) return {};
  if (spec.window < 1 || spec.window > kMaxSuffix)
    return {"window", "a count in [1, 2^24]", -1, static_cast<double>(spec.window)};
  if (spec.kind == SuffixKind::kUniform) {
    if (!(spec.count >= 0) || spec.count != std::floor(spec.count) || spec.count > 9e15)
      return {"count", "a whole number >= 0", -1, spec.count};
  }
  if (spec.kind == SuffixKind::kGaussian) {
    if (!(spec.decay > 0) || !std::isfinite(spec.decay))
      return {"decay", "a finite value > 0", -1, spec.decay};
    if (!std::isfinite(spec.scale)) return {"scale", "a finite value", -1, spec.scale};
    if (spec.scale < 0 && !(spec.count >= 0 && spec.count <= static_cast<double>(spec.window)))
      return {"count", "a wanted count in [0, window]", -1, spec.count};
  }
  return {};
}

Error validate_length(const char* argument, int64_t length) {
  if (length >= 0 && length <= kMaxSuffix) return {};
  return {argument, "a count in [0, 2^24]", -1, static_cast<double>(length)};
}

double resolved_scale(const SuffixSpec& spec) {
  if (spec.kind != SuffixKind::kGaussian || spec.scale >= 0) return spec.scale;
  thread_local SuffixSpec last;
  thread_local double found = 0;
  if (!(spec == last)) {
    found = bisected_scale(spec);
    last = spec;
  }
  return found;
}

std::vector<uint64_t> suffix_table(const SuffixSpec& spec, int64_t length) {
  const double scale = resolved_scale(spec);
  std::vector<uint64_t> table(length);
  for (int64_t d = 0; d < length; ++d) {
    table[d] = d < spec.near ? kAlways : threshold(probability(spec, scale, d));
  }
  return table;
}

double expected_kept(const SuffixSpec& spec, int64_t remaining) {
  if (spec.kind == SuffixKind::kUniform && spec.count >= static_cast<double>(remaining)) {
    return static_cast<double>(remaining);
  }
  const int64_t candidates = std::min(remaining, spec.window);
  const double scale = resolved_scale(spec);
  double sum = 0;
  for (int64_t d = 0; d < remaining; ++d) {
    const bool always = d < spec.near || (spec.keep_last && d == remaining - 1);
    double p = probability(spec, scale, d);
    if (spec.kind == SuffixKind::kUniform && d < candidates) {
      p = std::min(1.0, spec.count / static_cast<double>(candidates));
    }
    sum += always ? 1 : p;
  }
  return sum;
}

int64_t sample_suffix(const SuffixSpec& spec, const std::vector<uint64_t>& table, int64_t seed,
                      int64_t row_key, int64_t block, int64_t redraw, int64_t remaining,
                      int64_t* out) {
  Words word(stream_key(seed, row_key, Stream::kSuffix), block, redraw);
  std::vector<bool> keep(remaining, false);
  if (spec.kind == SuffixKind::kUniform) {
    sample_uniform(spec, word, remaining, keep);
  } else {
    for (int64_t d = 0; d < remaining; ++d) {
      const uint64_t below = table[d];
      keep[d] = below == kAlways || (below != 0 && word(d) < below);
    }
  }
  int64_t kept = 0;
  for (int64_t d = 0; d < remaining; ++d) {
    if (keep[d] || d < spec.near || (spec.keep_last && d == remaining - 1)) out[kept++] = d;
  }
  return kept;
}

}  // namespace dpad
