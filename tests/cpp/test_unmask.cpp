// Commit rules, status, end-of-text and tail of unmask_.
#include <cmath>
#include <vector>

#include "cpu/unmask.h"
#include "values.h"

using namespace dpad;
using Ints = std::vector<int64_t>;
using Doubles = std::vector<double>;

namespace {

constexpr int64_t kMask = 99, kFill = 2, kEnd = 2, kAll = 100;

// One canvas row whose block holds the positions [first, first + score.size()).
struct Step {
  Ints canvas;
  Doubles score;
  int64_t first = 1;
  Rule rule = Rule::kThreshold;
  double rule_value = 0.9;
  int64_t quota = kAll;
  Stop early_stop = Stop::kBlock;

  Ints position, token, committed_at, offsets;
  Doubles committed;
  int64_t masks_left = -1, status = -1, forward = 5, length = 0;

  void run() {
    const auto rows = static_cast<int64_t>(score.size());
    for (int64_t i = 0; i < rows; ++i) position.push_back(first + i);
    for (int64_t i = static_cast<int64_t>(token.size()); i < rows; ++i) token.push_back(10 + i);
    offsets = {0, rows};
    length = static_cast<int64_t>(canvas.size());
    committed_at.assign(canvas.size(), -1);
    committed.assign(canvas.size(), -1);
    const int64_t row = 0, end_id = kEnd;
    UnmaskParams p{};
    p.canvas = canvas.data(), p.committed_at = committed_at.data();
    p.committed = committed.data();
    p.masks_left = &masks_left, p.status = &status, p.forward = &forward;
    p.canvas_stride = length, p.canvas_row = &row, p.l_offsets = offsets.data();
    p.position = position.data(), p.token = token.data();
    p.score = score.data(), p.probability = score.data();
    p.rule_value = &rule_value, p.quota = &quota, p.length = &length;
    p.end_ids = &end_id, p.end_count = 1;
    p.batch = 1, p.mask_id = kMask, p.fill_id = kFill;
    p.rule = rule, p.early_stop = early_stop;
    test::run_unmask(p);
  }

  int64_t commits() const {
    int64_t n = 0;
    for (const int64_t at : committed_at) n += at == 5;
    return n;
  }
};

Step block(const Doubles& score, Rule rule, double rule_value, int64_t quota = kAll) {
  Step step;
  step.canvas.assign(score.size() + 3, kMask);
  step.canvas[0] = 7;
  step.score = score, step.rule = rule, step.rule_value = rule_value, step.quota = quota;
  step.run();
  return step;
}

SequenceStatus status_of(const Step& step) { return static_cast<SequenceStatus>(step.status); }

}  // namespace

TEST_CASE("threshold: every score from the threshold on, at least one") {
  CHECK(block({0.91, 0.5, 0.9, 0.2}, Rule::kThreshold, 0.9).commits() == 2);
  CHECK(block({0.1, 0.3, 0.2}, Rule::kThreshold, 0.9).canvas == Ints{7, kMask, 11, kMask, 99, 99});
  CHECK(block({0.99, 1.0}, Rule::kThreshold, 1.5).commits() == 1);
  CHECK(block({0.0, 0.0}, Rule::kThreshold, 0.0).commits() == 2);
}

TEST_CASE("factor, as written and as published") {
  const Doubles score{0.60, 0.99, 0.90, 0.98};
  CHECK(block(score, Rule::kFactor, 1).commits() == 3);
  CHECK(block(score, Rule::kFactorPublished, 1).commits() == 4);
  CHECK(block(score, Rule::kFactor, 0).commits() == 1);
  CHECK(block({1.0, 1.0, 1.0}, Rule::kFactor, 0).commits() == 1);
  CHECK(block({0.1}, Rule::kFactor, 1).commits() == 1);
  CHECK(block({0.9, 0.1}, Rule::kFactorPublished, 0).commits() == 2);
}

TEST_CASE("quota is clamped to 0 .. the masks left") {
  const Doubles score{0.1, 0.4, 0.3};
  CHECK(block(score, Rule::kQuota, 0, 0).commits() == 0);
  CHECK(block(score, Rule::kQuota, 0, -4).commits() == 0);
  CHECK(block(score, Rule::kQuota, 0, 2).canvas == Ints{7, kMask, 11, 12, kMask, kMask});
  CHECK(block(score, Rule::kQuota, 0, 50).commits() == 3);
}

TEST_CASE("below: every score under the rule_value, possibly none; a quota caps every rule") {
  const Doubles score{0.1, 0.4, 0.3};
  CHECK(block(score, Rule::kBelow, 0.35).canvas == Ints{7, 10, kMask, 12, kMask, kMask});
  CHECK(block(score, Rule::kBelow, 0.05).commits() == 0);
  CHECK(block(score, Rule::kBelow, 0.35, 1).canvas == Ints{7, 10, kMask, kMask, kMask, kMask});
  CHECK(block(score, Rule::kThreshold, 0.0, 2).commits() == 2);
  CHECK(block(score, Rule::kFactor, 9, 0).commits() == 0);
}

TEST_CASE("entropy bound: ascending, the largest does not count") {
  const Doubles entropy{0.9, 0.1, 0.3, 0.2};
  CHECK(block(entropy, Rule::kEntropyBound, 0.35).canvas ==
        Ints{7, kMask, 11, 12, 13, kMask, kMask});
  CHECK(block(entropy, Rule::kEntropyBound, 0.05).commits() == 1);
  CHECK(block(entropy, Rule::kEntropyBound, 0.625).commits() == 4);
}

TEST_CASE("ties go to the lower position, and only masks are eligible") {
  CHECK(block({0.5, 0.5, 0.5}, Rule::kQuota, 0, 2).canvas[3] == kMask);
  Step step;
  step.canvas = {7, 42, kMask, kMask};
  step.score = {NAN, 0.2, 0.3};  // a NaN where nothing can be committed is of no importance
  step.run();
  CHECK(step.canvas == Ints{7, 42, kMask, 12});
  CHECK(step.masks_left == 1);
  CHECK(status_of(step) == SequenceStatus::kRunning);
}

TEST_CASE("what is recorded") {
  const Step step = block({0.95, 0.2, 0.99}, Rule::kThreshold, 0.9);
  CHECK(step.committed_at == Ints{-1, 5, -1, 5, -1, -1});
  CHECK(step.committed == Doubles{-1, 0.95, -1, 0.99, -1, -1});
  CHECK(step.forward == 6);
  CHECK(step.masks_left == 1);
  CHECK(status_of(step) == SequenceStatus::kRunning);
}

TEST_CASE("a NaN stops the sequence and leaves its canvas alone") {
  const Step step = block({0.95, NAN, 0.99}, Rule::kThreshold, 0.9);
  CHECK(status_of(step) == SequenceStatus::kNaN);
  CHECK(step.canvas == Ints{7, kMask, kMask, kMask, kMask, kMask});
  CHECK(step.commits() == 0);
}

TEST_CASE("a finished block with an end id finishes the sequence and fills the masks behind it") {
  Step step;
  step.canvas = {kEnd, kMask, kMask, kMask, 55, kMask};
  step.score = {0.95, 0.97};
  step.token = {kEnd, 30};
  SECTION("early stop") {
    step.run();
    CHECK(step.canvas == Ints{kEnd, kEnd, 30, kFill, 55, kFill});
    CHECK(status_of(step) == SequenceStatus::kFinished);
  }
  SECTION("no early stop") {
    step.early_stop = Stop::kNever;
    step.run();
    CHECK(step.canvas == Ints{kEnd, kEnd, 30, kMask, 55, kMask});
    CHECK(status_of(step) == SequenceStatus::kBlockDone);
  }
  SECTION("an end id in an unfinished block does not stop it") {
    step.score = {0.95, 0.2};
    step.run();
    CHECK(status_of(step) == SequenceStatus::kRunning);
  }
  SECTION("an end id in the prompt does not count") {
    step.token = {31, 30};
    step.run();
    CHECK(status_of(step) == SequenceStatus::kBlockDone);
    CHECK(step.canvas[3] == kMask);
  }
}

TEST_CASE("at least: the sure ones, and the best of the quota, as many as there are masks") {
  CHECK(block({0.91, 0.5, 0.95, 0.2}, Rule::kAtLeast, 0.9, 1).commits() == 2);
  CHECK(block({0.91, 0.5, 0.95, 0.2}, Rule::kAtLeast, 0.9, 3).canvas ==
        Ints{7, 10, 11, 12, kMask, kMask, kMask});
  CHECK(block({0.1, 0.2}, Rule::kAtLeast, 0.9, 5).commits() == 2);
  CHECK(block({0.1, 0.2}, Rule::kAtLeast, 0.1, 0).commits() == 0);
}

TEST_CASE("entropy sum: strictly below the bound, at least one") {
  CHECK(block({0.5, 0.25, 0.125}, Rule::kEntropySum, 0.875).commits() == 2);
  CHECK(block({0.5, 0.25, 0.125}, Rule::kEntropySum, 0.9).commits() == 3);
  CHECK(block({0.5, 0.25}, Rule::kEntropySum, 0.1).commits() == 1);
}

TEST_CASE("an end id that no mask of the targets precedes ends the text") {
  for (const Stop stop : {Stop::kNever, Stop::kBlock, Stop::kText}) {
    Step step;
    step.canvas = {7, kMask, kMask, kMask, kMask};
    step.score = {0.95, 0.95, 0.1}, step.token = {10, kEnd, 12}, step.early_stop = stop;
    step.run();
    const bool ends = stop == Stop::kText;
    CHECK(status_of(step) == (ends ? SequenceStatus::kFinished : SequenceStatus::kRunning));
    CHECK(step.masks_left == (ends ? 0 : 1));
    CHECK(step.canvas[3] == (ends ? kFill : kMask));
  }
  Step behind;
  behind.canvas = {7, kMask, kMask, kMask};
  behind.score = {0.1, 0.95}, behind.token = {10, kEnd}, behind.early_stop = Stop::kText;
  behind.run();
  CHECK(status_of(behind) == SequenceStatus::kRunning);
  CHECK(behind.canvas[3] == kMask);
}
