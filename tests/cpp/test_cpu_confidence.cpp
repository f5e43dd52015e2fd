// confidence and its noise on every instruction set against plain loops in float64.
#include <algorithm>
#include <cmath>

#include "core/gumbel.h"
#include "cpu/confidence.h"
#include "values.h"

using namespace dpad;
using namespace dpad::test;
using Ints = std::vector<int64_t>;

namespace {

struct Case {
  Values logits;
  int64_t rows, vocab;
  Ints suppress, exclude;
  double temperature = 0;
  bool round_to_dtype = false;
  std::vector<double> noise;
  Ints position, l_offsets, token;
  Ints rng{0, 0, 0, 77, (int64_t{5} << 40) + 3, 12};  // two sequences
  std::vector<double> probability, margin, entropy;

  Case(Values values, int64_t n) : logits(std::move(values)), rows(n), vocab(logits.size() / n) {
    for (int64_t r = 0; r < rows; ++r) position.push_back((int64_t{1} << 33) + 10 * r);
    l_offsets = {0, 0, rows};
    token.assign(rows, -1);
    probability = margin = entropy = std::vector<double>(rows, -1.0);
  }

  void run() {
    const std::vector<double> temperatures{0, temperature};
    ConfidenceParams p{};
    p.logits = logits.data(), p.logits_stride = vocab;
    p.position = position.data(), p.rng = rng.data();
    p.l_offsets = l_offsets.data(), p.batch = 2;
    p.temperature = temperatures.data();
    p.suppress = suppress.data(), p.suppress_count = static_cast<int64_t>(suppress.size());
    p.exclude = exclude.data(), p.exclude_count = static_cast<int64_t>(exclude.size());
    if (!noise.empty()) p.noise = noise.data(), p.noise_stride = vocab;
    p.token = token.data(), p.probability = probability.data();
    p.margin = margin.data(), p.entropy = entropy.data();
    p.rows = rows, p.vocab = vocab, p.round_to_dtype = round_to_dtype, p.dtype = logits.dtype();
    run_items(p, 0, 1, cpu::confidence_scratch, cpu::confidence);
    run_items(p, 1, cpu::confidence_tasks(p), cpu::confidence_scratch, cpu::confidence);
  }

  static bool in(const Ints& ids, int64_t id) {
    return std::binary_search(ids.begin(), ids.end(), id);
  }

  double gumbel(int64_t row, int64_t id) const {
    if (!noise.empty()) return noise[row * vocab + id];
    return gumbel_noise(stream_key(rng[3], rng[4], Stream::kNoise), id, position[row], rng[5]);
  }

  int64_t exact_token(int64_t row) const {
    int64_t best = -1;
    double top = -INFINITY;
    for (int64_t id = 0; id < vocab; ++id) {
      if (in(suppress, id)) continue;
      const double x = logits[row * vocab + id];
      const double score = temperature > 0 ? x + temperature * gumbel(row, id) : x;
      if (best < 0 || score > top) best = id, top = score;
    }
    return best;
  }

  // Probability of `chosen`, margin, entropy.
  std::vector<double> exact_scores(int64_t row, int64_t chosen) const {
    std::vector<double> x, p;
    double peak = -INFINITY, sum = 0, entropy = 0;
    for (int64_t id = 0; id < vocab; ++id) {
      if (!in(exclude, id)) x.push_back(logits[row * vocab + id]);
    }
    for (const double v : x) peak = std::max(peak, v);
    for (const double v : x) sum += std::exp(v - peak);
    for (const double v : x) {
      p.push_back(std::exp(v - peak) / sum);
      if (p.back() > 0) entropy -= p.back() * (v - peak - std::log(sum));
    }
    p.push_back(0);
    std::partial_sort(p.begin(), p.begin() + 2, p.end(), std::greater<>());
    const double own = std::exp(logits[row * vocab + chosen] - peak) / sum;
    return {in(exclude, chosen) ? 0 : own, p[0] - p[1], entropy};
  }

  void check() {
    run();
    for (int64_t row = 0; row < rows; ++row) {
      CAPTURE(row, vocab, static_cast<int>(logits.dtype()), temperature);
      REQUIRE(token[row] == exact_token(row));
      const std::vector<double> want = exact_scores(row, token[row]);
      CHECK(std::abs(probability[row] - want[0]) <= 5e-7 * want[0]);
      CHECK(std::abs(margin[row] - want[1]) <= 5e-7 * want[1] + 1e-7);
      CHECK(std::abs(entropy[row] - want[2]) <= 5e-7 * want[2] + 1e-9);
    }
  }
};

}  // namespace

TEST_CASE("confidence agrees with float64 for awkward vocabularies") {
  on_every_isa([] {
    for (const DType dtype : kTypes) {
      for (const int64_t vocab : {1, 2, 63, 64, 65, 1023, 1025, 5000}) {
        for (const float scale : {0.1f, 4.0f, 30.0f}) {
          Case c(Values::normal(dtype, 3 * vocab, 1, scale), 3);
          c.check();
          if (vocab < 63) continue;
          c.suppress = {0, 5, vocab - 1};
          c.exclude = {3, 5, 40};
          c.check();
          c.suppress = {}, c.exclude = {c.token[0]};
          c.check();
        }
      }
    }
  });
}

TEST_CASE("very confident rows keep their order") {
  on_every_isa([] {
    Case c(Values(DType::kFloat32, 2 * 3000), 2);
    for (int64_t i = 0; i < 3000; ++i) c.logits.set(i, -30), c.logits.set(3000 + i, -31);
    c.logits.set(1500, 0), c.logits.set(3000 + 2999, 0);
    c.check();
    CHECK(c.probability[0] < c.probability[1]);
    CHECK(c.probability[1] < 1);
  });
}

TEST_CASE("ties go to the lowest index; suppressed and excluded ids differ") {
  on_every_isa([] {
    Case c(Values(DType::kBFloat16, 2 * 2100), 2);
    for (const int64_t id : {700, 1500, 2099}) c.logits.set(id, 3), c.logits.set(2100 + id, 3);
    c.check();
    CHECK(c.token[0] == 700);
    CHECK(c.margin[0] == Approx(0).margin(1e-12));
    c.suppress = {700};  // chosen: the next one; the soft-max still holds 700
    c.check();
    CHECK(c.token[0] == 1500);
    c.suppress = {}, c.exclude = {700};  // chosen although excluded
    c.check();
    CHECK(c.token[0] == 700);
    CHECK(c.probability[0] == 0);
    c.suppress.resize(2099);  // one id left
    for (int64_t i = 0; i < 2099; ++i) c.suppress[i] = i;
    c.check();
    CHECK(c.token[1] == 2099);
  });
}

TEST_CASE("NaN and infinite logits") {
  on_every_isa([] {
    for (const DType dtype : kTypes) {
      const int64_t vocab = 1500;
      Case c(Values::normal(dtype, 5 * vocab, 1), 5);
      c.suppress = {7};
      c.logits.set(20, NAN);                                                       // row 0
      c.logits.set(vocab + 1200, INFINITY);                                        // row 1
      for (int64_t i = 0; i < vocab; ++i) c.logits.set(2 * vocab + i, -INFINITY);  // row 2
      for (int64_t i = 0; i < vocab; ++i) c.logits.set(3 * vocab + i, i == 9 ? 1 : -INFINITY);
      for (int64_t i = 0; i < vocab; ++i) c.logits.set(4 * vocab + i, i == 1400 ? 1 : NAN);
      for (const double temperature : {0.0, 1.0}) {
        c.temperature = temperature;
        c.run();
        for (const int64_t row : {0, 1, 2, 4}) {
          CHECK(std::isnan(c.probability[row]));
          CHECK(std::isnan(c.margin[row]));
          CHECK(std::isnan(c.entropy[row]));
          CHECK((c.token[row] >= 0 && c.token[row] < vocab && c.token[row] != 7));
        }
        CHECK(c.token[3] == 9);
        CHECK(c.probability[3] == 1);
        CHECK(c.margin[3] == 1);
        CHECK(c.entropy[3] == 0);
      }
      c.exclude = {20};  // a NaN outside the soft-max does no harm
      c.run();
      CHECK(std::isfinite(c.probability[0]));
    }
  });
}

TEST_CASE("scores are rounded to the logits' dtype on request") {
  on_every_isa([] {
    for (const DType dtype : kTypes) {
      Case c(Values::normal(dtype, 4 * 300, 1, 2), 4);
      c.run();
      const auto probability = c.probability, margin = c.margin, entropy = c.entropy;
      c.round_to_dtype = true;
      c.run();
      for (int64_t row = 0; row < 4; ++row) {
        CHECK(c.probability[row] == rounded(dtype, static_cast<float>(probability[row])));
        CHECK(c.margin[row] == rounded(dtype, static_cast<float>(margin[row])));
        CHECK(c.entropy[row] == rounded(dtype, static_cast<float>(entropy[row])));
      }
    }
  });
}

TEST_CASE("with temperature the token is the exact argmax of x + T G") {
  on_every_isa([] {
    for (const double temperature : {0.05, 1.0, 20.0}) {
      for (const int64_t vocab : {3, 64, 1001, 4200}) {
        Case c(Values::normal(DType::kBFloat16, 6 * vocab, 1, 3), 6);
        c.temperature = temperature;
        c.check();
        if (vocab > 3) c.suppress = {2, 3, vocab - 1}, c.exclude = {3, 4};
        c.check();
        const Ints drawn = c.token;
        for (int64_t i = 0; i < 6 * vocab; ++i) c.noise.push_back(std::sin(i * i) * 5);
        c.check();
        if (temperature == 20.0 && vocab > 1000) CHECK(drawn != c.token);
      }
    }
  });
}

TEST_CASE("Gumbel noise: range, tail, bound and distribution") {
  CHECK(gumbel_of_words(0, 0) == Approx(45.0544).epsilon(1e-5));
  CHECK(gumbel_of_words(0, 0) < kGumbelMax);
  CHECK(gumbel_of_words(~0u, ~0u) == Approx(-3.80787).epsilon(1e-5));
  CHECK(gumbel_of_words(0x80000000u, 0) == Approx(-std::log(std::log(2.0))));
  const PhiloxKey key = stream_key(1, 2, Stream::kNoise);
  double sum = 0, squares = 0, worst = -INFINITY;
  const int64_t n = 200000;
  for (int64_t id = 0; id < n; ++id) {
    const double g = gumbel_noise(key, id, 7, 9);
    const uint32_t high = philox(gumbel_counter(id >> 1, 7, 9), key).word[2 * (id & 1)];
    worst = std::max(worst, g - gumbel_bound(high));
    sum += g, squares += g * g;
  }
  CHECK(worst < 0);
  const double mean = sum / n;
  CHECK(mean == Approx(0.5772157).margin(0.01));                       // Euler's constant
  CHECK(squares / n - mean * mean == Approx(1.6449341).margin(0.03));  // pi^2 / 6
}
