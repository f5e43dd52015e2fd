// Random numbers, suffix tables and draws, transfer schedules, error texts.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "catch.h"
#include "core/error.h"
#include "core/exact.h"
#include "core/gumbel.h"
#include "core/philox.h"
#include "core/schedule.h"
#include "core/suffix.h"

using namespace dpad;

namespace {

SuffixSpec gaussian(double decay, double scale, int64_t window) {
  SuffixSpec spec;
  spec.kind = SuffixKind::kGaussian;
  spec.decay = decay, spec.scale = scale, spec.window = window;
  return spec;
}

SuffixSpec uniform(double count, int64_t window) {
  SuffixSpec spec;
  spec.kind = SuffixKind::kUniform;
  spec.count = count, spec.window = window;
  return spec;
}

std::vector<int64_t> draw(const SuffixSpec& spec, int64_t remaining, int64_t seed = 0,
                          int64_t row_key = 0, int64_t block = 0, int64_t redraw = 0) {
  std::vector<int64_t> out(remaining);
  const auto table = suffix_table(spec, remaining);
  out.resize(sample_suffix(spec, table, seed, row_key, block, redraw, remaining, out.data()));
  return out;
}

bool near_to(double a, double b, double tolerance) { return std::abs(a - b) <= tolerance; }

}  // namespace

TEST_CASE("the logarithm of exact operations is right to a few units in the last place") {
  double worst = 0, worst_small = 0;
  for (int exponent = -1022; exponent < 1024; ++exponent) {
    for (const double m : {1.0, 1.0000001, 1.2, 1.4142135, 1.4142136, 1.5, 1.9999999}) {
      const double x = std::ldexp(m, exponent), want = std::log(x);
      worst = std::max(worst, std::abs(log_rn(x) - want) / std::max(std::abs(want), 1e-9));
    }
  }
  for (double v = 0.5; v > 0x1p-66; v *= 0.97) {
    worst_small = std::max(worst_small, std::abs(minus_log_complement(v) / -std::log1p(-v) - 1));
  }
  CHECK(worst < 8e-16);
  CHECK(worst_small < 8e-16);
  CHECK(log_rn(1.0) == 0);
}

TEST_CASE("bits of the noise, the same on every device and compiler") {
  const PhiloxKey key = stream_key(1, 2, Stream::kNoise);
  CHECK(gumbel_noise(key, 0, 3, 4) == 0x1.391cbb65b54fbp-1);
  CHECK(gumbel_noise(key, 12345, int64_t{1} << 40, 9) == 0x1.cca7924816da2p-3);
  CHECK(gumbel_of_words(0, 0) == 0x1.686fc0af622d7p+5);
  CHECK(gumbel_of_words(~0u, ~0u) == -0x1.e7686d3aca577p+1);
}

TEST_CASE("Philox4x32-10 gives the published known answers") {
  struct Known {
    PhiloxCounter counter;
    PhiloxKey key;
    uint32_t word[4];
  };
  const Known known[] = {
      {{{0, 0, 0, 0}}, {{0, 0}}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{{~0u, ~0u, ~0u, ~0u}}, {{~0u, ~0u}}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
       {{0xa4093822, 0x299f31d0}},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
  for (const Known& k : known) {
    const PhiloxCounter drawn = philox(k.counter, k.key);
    for (int i = 0; i < 4; ++i) CHECK(drawn.word[i] == k.word[i]);
  }
  STATIC_REQUIRE(philox({{0, 0, 0, 0}}, {{0, 0}}).word[0] == 0x6627e8d5);
}

TEST_CASE("streams, seeds and all bits of a row key give different keys") {
  const int64_t far = int64_t{1} << 40;
  const PhiloxKey keys[] = {
      stream_key(1, 2, Stream::kSuffix),   stream_key(1, 2, Stream::kNoise),
      stream_key(1, 2, Stream::kOrder),    stream_key(2, 1, Stream::kSuffix),
      stream_key(1, far, Stream::kSuffix), stream_key(far, 2, Stream::kSuffix),
      stream_key(1, -2, Stream::kSuffix),  stream_key(-1, 2, Stream::kSuffix)};
  for (const PhiloxKey& a : keys) {
    for (const PhiloxKey& b : keys) {
      const bool same = a.word[0] == b.word[0] && a.word[1] == b.word[1];
      CHECK(same == (&a == &b));
    }
  }
}

TEST_CASE("expected counts of the published hyper-parameters") {
  struct Row {
    double decay, scale;
    int64_t window;
    double first, kept, density;
  };
  const Row rows[] = {{4, 2.0, 256, 0.80, 64.1, 0.25}, {3, 2.3, 512, 0.92, 195.8, 0.38},
                      {3, 2.3, 128, 0.92, 49.0, 0.38}, {3, 1.6, 256, 0.64, 68.1, 0.27},
                      {3, 1.6, 128, 0.64, 34.1, 0.27}, {3, 1.6, 512, 0.64, 136.2, 0.27},
                      {4, 1.6, 256, 0.64, 51.3, 0.20}, {4, 1.6, 128, 0.64, 25.7, 0.20}};
  for (const Row& row : rows) {
    CAPTURE(row.decay, row.scale, row.window);
    const SuffixSpec spec = gaussian(row.decay, row.scale, row.window);
    REQUIRE_FALSE(validate(spec));
    const double kept = expected_kept(spec, row.window);
    CHECK(near_to(kept, row.kept, 0.0501));
    CHECK(near_to(kept / static_cast<double>(row.window), row.density, 0.00501));
    const double first = static_cast<double>(suffix_table(spec, 1)[0]) / 0x1p32;
    CHECK(near_to(first, row.first, 0.00501));
    CHECK(expected_kept(spec, 4 * row.window) == kept);
  }
  SuffixSpec spec = gaussian(4, 2.0, 256);
  CHECK(near_to(expected_kept(spec, 256), 64.15, 0.00501));
  spec.grid = SuffixGrid::kPaper;
  CHECK(near_to(expected_kept(spec, 256), 64.39, 0.00501));
}

TEST_CASE("the published calibration pairs hit their counts, and bisection agrees with them") {
  struct Pair {
    int64_t count, window;
    double scale;
  };
  const Pair pairs[] = {{32, 64, 3.4},    {32, 128, 1.6},   {64, 128, 3.4},   {32, 192, 1.1},
                        {64, 192, 2.1},   {128, 192, 7.7},  {32, 256, 0.8},   {64, 256, 1.6},
                        {128, 256, 3.4},  {192, 256, 13.1}, {32, 320, 0.7},   {64, 320, 1.3},
                        {128, 320, 2.5},  {192, 320, 5.3},  {256, 320, 18.9}, {32, 384, 0.6},
                        {64, 384, 1.1},   {128, 384, 2.1},  {192, 384, 3.4},  {256, 384, 7.7},
                        {320, 384, 24.5}, {32, 448, 0.5},   {64, 448, 0.9},   {128, 448, 1.8},
                        {192, 448, 2.6},  {256, 448, 4.6},  {320, 448, 10.3}, {384, 448, 29.9},
                        {32, 512, 0.4},   {64, 512, 0.8},   {128, 512, 1.6},  {192, 512, 2.3},
                        {256, 512, 3.4},  {320, 512, 6.1},  {384, 512, 13.1}, {448, 512, 34.9}};
  for (const Pair& pair : pairs) {
    CAPTURE(pair.count, pair.window, pair.scale);
    const auto count = static_cast<double>(pair.count);
    // The published scales are rounded up to one digit: a few tokens above the wanted count.
    const double kept = expected_kept(gaussian(3, pair.scale, pair.window), pair.window);
    CHECK(kept >= count);
    CHECK(kept <= count + 8.5);
    SuffixSpec wanted = gaussian(3, -1, pair.window);
    wanted.count = count;
    REQUIRE_FALSE(validate(wanted));
    CHECK(near_to(expected_kept(wanted, pair.window), count, 1e-6));
    const double scale = resolved_scale(wanted);
    CHECK(scale <= pair.scale);
    CHECK(scale > pair.scale - 0.1001);
  }
}

TEST_CASE("extreme wanted counts") {
  SuffixSpec wanted = gaussian(3, -1, 64);
  wanted.count = 0;
  CHECK(expected_kept(wanted, 64) < 1e-6);
  wanted.count = 64;
  CHECK(expected_kept(wanted, 64) == 64);
  CHECK(draw(wanted, 64).size() == 64);
  CHECK(suffix_table(gaussian(3, 2.6, 1), 3) == std::vector<uint64_t>{kAlways, 0, 0});
}

TEST_CASE("the uniform draw as released") {
  CHECK(draw(uniform(20, 16), 48).size() == 16);
  CHECK(draw(uniform(20, 16), 18).size() == 18);  // the count covers what is left: no window
  CHECK(draw(uniform(20, 16), 16).size() == 16);
  CHECK(draw(uniform(5, 16), 48).size() == 5);
  CHECK(draw(uniform(0, 16), 48).empty());
  CHECK(draw(uniform(5, 16), 0).empty());
  CHECK(expected_kept(uniform(20, 16), 48) == 16);
  CHECK(expected_kept(uniform(20, 16), 18) == 18);
  CHECK(expected_kept(uniform(5, 16), 48) == 5);
}

TEST_CASE("kinds, the near positions and the last one") {
  SuffixSpec spec;
  spec.kind = SuffixKind::kNone;
  CHECK(draw(spec, 9).empty());
  spec.keep_last = true;
  spec.near = 2;
  CHECK(draw(spec, 9) == std::vector<int64_t>{0, 1, 8});
  CHECK(expected_kept(spec, 9) == 3);
  CHECK(draw(spec, 1) == std::vector<int64_t>{0});
  CHECK(draw(spec, 0).empty());
  spec.kind = SuffixKind::kAll;
  CHECK(draw(spec, 4) == std::vector<int64_t>{0, 1, 2, 3});
  spec.kind = SuffixKind::kWindow;
  spec.window = 3;
  CHECK(draw(spec, 6) == std::vector<int64_t>{0, 1, 2, 5});
}

TEST_CASE("draws follow their thresholds") {
  constexpr int64_t kDraws = 20000, kLeft = 160;
  const SuffixSpec specs[] = {gaussian(3, 2.3, 128), gaussian(4, 2.0, 32), uniform(12, 64)};
  for (const SuffixSpec& spec : specs) {
    CAPTURE(static_cast<int>(spec.kind), spec.window);
    const auto table = suffix_table(spec, kLeft);
    std::vector<int64_t> seen(kLeft, 0), out(kLeft);
    for (int64_t row = 0; row < kDraws; ++row) {
      // Neighbouring row keys, blocks and redraws have to be independent.
      const int64_t n =
          sample_suffix(spec, table, 7, row / 4, row / 2 % 2, row % 2, kLeft, out.data());
      for (int64_t i = 0; i < n; ++i) {
        REQUIRE((i == 0 || out[i] > out[i - 1]));
        ++seen[out[i]];
      }
    }
    for (int64_t d = 0; d < kLeft; ++d) {
      const double p = static_cast<double>(table[d]) / 0x1p32;
      const double sigma = std::sqrt(p * (1 - p) / kDraws);
      CAPTURE(d, p, seen[d]);
      CHECK(near_to(static_cast<double>(seen[d]) / kDraws, p, 4.5 * sigma));
    }
  }
}

TEST_CASE("a draw depends on seed, row key, block and redraw, and on nothing else") {
  const SuffixSpec spec = gaussian(3, 1.6, 256);
  const auto base = draw(spec, 256, 1, 2, 3, 4);
  CHECK(draw(spec, 256, 1, 2, 3, 4) == base);
  CHECK(draw(spec, 256, 0, 2, 3, 4) != base);
  CHECK(draw(spec, 256, 1, 0, 3, 4) != base);
  CHECK(draw(spec, 256, 1, 2, 0, 4) != base);
  CHECK(draw(spec, 256, 1, 2, 3, 0) != base);
  auto shorter = base;  // fewer positions left: the same set, cut off
  while (!shorter.empty() && shorter.back() >= 100) shorter.pop_back();
  CHECK(draw(spec, 100, 1, 2, 3, 4) == shorter);
}

TEST_CASE("bad suffix settings name the argument") {
  CHECK(std::string(validate(gaussian(0, 1, 8)).argument) == "decay");
  CHECK(std::string(validate(gaussian(3, NAN, 8)).argument) == "scale");
  CHECK(std::string(validate(gaussian(3, 1, 0)).argument) == "window");
  CHECK(std::string(validate(uniform(1.5, 8)).argument) == "count");
  SuffixSpec spec = gaussian(3, -1, 8);
  spec.count = 9;
  CHECK(std::string(validate(spec).argument) == "count");
  spec.near = -1;
  CHECK(std::string(validate(spec).argument) == "near");
}

TEST_CASE("the linear transfer schedule") {
  const int64_t expected[] = {4, 4, 3, 3, 3, 3, 3, 3, 3, 3};
  for (int64_t step = 0; step < 10; ++step) {
    CHECK(transfer_quota(32, 10, step) == expected[step]);
  }
  for (const int64_t masks : {0, 1, 31, 32, 33}) {
    for (const int64_t steps : {1, 7, 32, 64}) {
      int64_t sum = 0;
      for (int64_t step = 0; step < steps; ++step) sum += transfer_quota(masks, steps, step);
      CHECK(sum == masks);
    }
  }
}

TEST_CASE("error texts name argument, element and value") {
  CHECK(describe({}) == "no error");
  CHECK(describe({"position", "a value in [0, 64)", 3, 99}) ==
        "argument 'position'[3] = 99: expected a value in [0, 64)");
  CHECK(describe({"decay", "a finite value > 0", -1, -0.5}) ==
        "argument 'decay' = -0.5: expected a finite value > 0");
}
