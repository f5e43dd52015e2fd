// The launchers of confidence, uniform and unmask_ over many shapes against the CPU's operators.
#include "cpu/confidence.h"
#include "cpu/uniform.h"
#include "cpu/unmask.h"
#include "cuda/confidence.h"
#include "cuda/uniform.h"
#include "cuda/unmask.h"
#include "cuda_launch.h"

using namespace dpad;
using namespace dpad::test;

namespace {

// Rows of logits `pad` elements apart, the first of them `shift` elements into their memory.
struct Logits {
  int64_t rows, vocab, pad, shift;
  Ints counts;  // rows per sequence
};

struct Scores {
  Ints token;
  Doubles probability, margin, entropy;

  explicit Scores(int64_t rows)
      : token(rows + 1, -7),
        probability(rows + 1, -7),
        margin(rows + 1, -7),
        entropy(rows + 1, -7) {}
};

void require_close(const Scores& got, const Scores& want) {
  REQUIRE(got.token == want.token);
  const auto close = [](const Doubles& a, const Doubles& b) {
    for (size_t i = 0; i < a.size(); ++i) {
      CAPTURE(i, a[i], b[i]);
      REQUIRE(std::abs(a[i] - b[i]) <= 1e-6 * std::abs(b[i]) + 2e-7);
    }
  };
  close(got.probability, want.probability);
  close(got.margin, want.margin);
  close(got.entropy, want.entropy);
}

// With temperature 0 in every other sequence, some ids suppressed and some excluded.
void check_confidence(const Logits& s, DType dtype, double temperature, bool given) {
  CAPTURE(static_cast<int>(dtype), s.rows, s.vocab, s.pad, s.shift, temperature, given);
  const int64_t stride = s.vocab + s.pad;
  Values logits = Values::normal(dtype, s.shift + s.rows * stride, 5, 3);
  Ints position, rng, suppress{s.vocab - 1, 3 % s.vocab}, exclude{s.vocab / 2, 3 % s.vocab};
  if (s.vocab == 1) suppress.clear(), exclude.clear();
  Doubles temperatures, noise;
  const Ints offsets = offsets_of(s.counts);
  REQUIRE(offsets.back() == s.rows);
  for (int64_t r = 0; r < s.rows; ++r) position.push_back(1000 - 3 * r);
  for (size_t b = 0; b < s.counts.size(); ++b) {
    temperatures.push_back(b % 2 ? 0 : temperature);
    for (const int64_t x : {int64_t{9}, int64_t(b), int64_t{4}}) rng.push_back(x);
  }
  for (int64_t i = 0; given && i < s.rows * s.vocab; ++i) noise.push_back(std::sin(0.7 * i) * 9);
  ConfidenceParams p{};
  p.logits = element(logits, s.shift), p.logits_stride = stride, p.position = position.data();
  p.l_offsets = offsets.data(), p.rng = rng.data(), p.temperature = temperatures.data();
  p.suppress = suppress.data(), p.suppress_count = static_cast<int64_t>(suppress.size());
  p.exclude = exclude.data(), p.exclude_count = static_cast<int64_t>(exclude.size());
  p.noise = given ? noise.data() : nullptr, p.noise_stride = given ? s.vocab : 0;
  p.batch = static_cast<int64_t>(s.counts.size()), p.rows = s.rows, p.vocab = s.vocab;
  p.dtype = dtype;
  const auto into = [&](Scores& scores) {
    p.token = scores.token.data(), p.probability = scores.probability.data();
    p.margin = scores.margin.data(), p.entropy = scores.entropy.data();
  };
  Scores want(s.rows), got(s.rows);
  into(want);
  run_items(p, 0, s.rows, cpu::confidence_scratch, cpu::confidence);
  into(got);
  next_order();
  const Names names = launched(p, cuda::confidence_scratch, cuda::launch_confidence);
  const int64_t pack = 16 / Output::bytes_of(dtype);
  REQUIRE(
      has(names, "confidence_kernel" + packs(dtype, stride % pack == 0 && s.shift % pack == 0)));
  require_close(got, want);
}

const Logits kLogits[] = {
    {1, 1, 0, 0, {1}},          {3, 17, 0, 0, {1, 0, 2}}, {2, 256, 8, 0, {0, 2}},
    {40, 64, 0, 0, {7, 0, 33}}, {2, 8192, 0, 0, {1, 1}},  {1, 8193, 0, 0, {1}},
    {2, 8193, 7, 0, {2}},       {1, 8200, 0, 1, {1}},     {3, 16390, 2, 0, {1, 2, 0}}};

}  // namespace

TEST_CASE("confidence, launched: vocabularies of one and of several chunks") {
  fake_cuda().reset();
  for (const DType dtype : kTypes) {
    for (const Logits& s : kLogits) {
      check_confidence(s, dtype, 0, false);
      if (s.vocab < 9000) check_confidence(s, dtype, 0.8, s.vocab % 2 == 0);
    }
  }
  for (int64_t rows = 1; rows <= 200; rows += rows < 40 ? 1 : 23) {
    check_confidence({rows, 40 + rows, 0, 0, {rows / 2, 0, rows - rows / 2}}, DType::kBFloat16, 0.5,
                     false);
  }
  // More chunks than a block has warps.
  check_confidence({9, 4 * 8192 + 3, 5, 0, {4, 0, 5}}, DType::kBFloat16, 1.0, false);
  check_confidence({1, 20 * 8192, 0, 0, {1}}, DType::kFloat16, 0, false);
}

TEST_CASE("uniform, launched") {
  fake_cuda().reset();
  for (const Ints& counts : {Ints{1}, Ints{0, 255}, Ints{256}, Ints{100, 0, 157}, Ints{1, 1999}}) {
    const Ints offsets = offsets_of(counts);
    Ints position, rng;
    for (int64_t i = 0; i < offsets.back(); ++i) position.push_back(i * i);
    for (size_t i = 0; i < 3 * counts.size(); ++i) rng.push_back(static_cast<int64_t>(i) - 2);
    Doubles want(offsets.back() + 1, -1), got = want;
    const auto batch = static_cast<int64_t>(counts.size());
    UniformParams p{position.data(), offsets.data(), rng.data(),
                    want.data(),     batch,          offsets.back()};
    cpu::uniform(p);
    p.out = got.data();
    next_order();
    REQUIRE(launched(p, cuda::launch_uniform) == Names{"uniform_kernel"});
    REQUIRE(got == want);
  }
}

namespace {

constexpr int64_t kMask = 99, kFill = 2;

struct Canvas {
  Ints tokens, committed_at, masks_left, status, forward;
  Doubles committed;
  bool operator==(const Canvas&) const = default;
};

// One canvas more than sequences, each `width` long; every third position is decoded already.
void check_unmask(const Ints& counts, int64_t width, Rule rule, Stop early_stop) {
  CAPTURE(counts.size(), counts.back(), width, static_cast<int>(rule));
  const auto batch = static_cast<int64_t>(counts.size());
  const Ints offsets = offsets_of(counts), ends{kFill, 3};
  Canvas want;
  for (int64_t i = 0; i < (batch + 1) * width; ++i) want.tokens.push_back(i % 3 ? kMask : 7);
  want.committed_at.assign(want.tokens.size(), -1), want.committed.assign(want.tokens.size(), -1);
  want.masks_left.assign(batch + 1, -5), want.status.assign(batch + 1, -5);
  want.forward.assign(batch + 1, 6);
  Ints row, position, token, quota, length;
  Doubles score, probability, rule_value;
  std::mt19937 bits(3);
  for (int64_t b = 0; b < batch; ++b) {
    row.push_back(batch - b), quota.push_back(b % 4 ? 3 * b : counts[b]);
    rule_value.push_back(b % 3 * 0.4);
    int64_t used = 0;  // columns
    for (int64_t i = 0; i < counts[b]; ++i) {
      used = std::max(used, (i * 7 + b) % width + 1);
      position.push_back((i * 7 + b) % width), token.push_back(bits() % 5);
      score.push_back(bits() % 16 / 16.0), probability.push_back(bits() % 1000 / 1000.0);
    }
    length.push_back(b % 2 ? used : width);
  }
  Canvas got = want;
  UnmaskParams p{};
  p.canvas_stride = width, p.canvas_row = row.data(), p.l_offsets = offsets.data();
  p.position = position.data(), p.token = token.data(), p.score = score.data();
  p.probability = probability.data(), p.rule_value = rule_value.data(), p.quota = quota.data();
  p.length = length.data(), p.end_ids = ends.data(), p.end_count = 2, p.batch = batch;
  p.mask_id = kMask, p.fill_id = kFill, p.canvas_rows = batch + 1, p.rows = offsets.back();
  p.rule = rule, p.early_stop = early_stop;
  const auto onto = [&](Canvas& c) {
    p.canvas = c.tokens.data(), p.committed_at = c.committed_at.data();
    p.committed = c.committed.data(), p.masks_left = c.masks_left.data();
    p.status = c.status.data(), p.forward = c.forward.data();
  };
  onto(want);
  run_unmask(p);
  onto(got);
  next_order();
  REQUIRE(launched(p, cuda::unmask_scratch, cuda::launch_unmask) == Names{"unmask_kernel"});
  REQUIRE(got == want);
}

}  // namespace

TEST_CASE("unmask_, launched: few rows, and more than a block ranks in shared memory") {
  fake_cuda().reset();
  for (const Rule rule :
       {Rule::kThreshold, Rule::kFactor, Rule::kQuota, Rule::kEntropyBound, Rule::kFactorPublished,
        Rule::kBelow, Rule::kAtLeast, Rule::kEntropySum}) {
    for (const Stop early_stop : {Stop::kNever, Stop::kBlock, Stop::kText}) {
      check_unmask({1}, 5, rule, early_stop);
      check_unmask({0, 32, 0, 7, 64, 1}, 80, rule, early_stop);
    }
    check_unmask(Ints(40, 3), 16, rule, Stop::kBlock);
  }
  check_unmask({1024}, 1500, Rule::kQuota, Stop::kBlock);
  check_unmask({1025}, 1500, Rule::kThreshold, Stop::kBlock);
  check_unmask({3, 1100, 0, 1024, 1300}, 1500, Rule::kQuota, Stop::kText);
}
