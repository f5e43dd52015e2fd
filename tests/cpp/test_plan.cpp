// The planner: rows, slots, positions and logit rows of one pass.
#include <limits>
#include <string>
#include <vector>

#include "catch.h"
#include "core/plan.h"

using namespace dpad;
using Ints = std::vector<int64_t>;

namespace {

struct Batch {
  Ints start, end, kept, kept_count, scope;
  int64_t shift = 0;
  Ints first = Ints(start.size(), 0), first_target = start, unseen = first;
  Ints predecessor = Ints(start.size(), 1);
  int64_t block_length = 0;

  PlanInput input() const {
    return {start.data(),
            end.data(),
            kept.data(),
            static_cast<int64_t>(kept.size()),
            kept_count.data(),
            scope.data(),
            first.data(),
            first_target.data(),
            unseen.data(),
            predecessor.data(),
            static_cast<int64_t>(start.size()),
            shift,
            block_length};
  }
};

Plan plan_one(int64_t start, int64_t end, const Ints& kept, Scope scope, int64_t shift) {
  const auto count = static_cast<int64_t>(kept.size());
  const Batch batch{{start}, {end}, kept, {count}, {static_cast<int64_t>(scope)}, shift};
  REQUIRE_FALSE(validate(batch.input()));
  return plan_pass(batch.input());
}

}  // namespace

TEST_CASE("the scopes of a pass, without a shift") {
  const Ints kept{9, 12};
  Plan plan = plan_one(4, 8, kept, Scope::kAll, 0);
  CHECK(plan.slot == Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  CHECK(plan.position == Ints{0, 1, 2, 3, 4, 5, 6, 7, 9, 12});
  CHECK(plan.logit_row == Ints{4, 5, 6, 7});
  CHECK(plan.q_offsets == Ints{0, 10});

  plan = plan_one(4, 8, kept, Scope::kSuffix, 0);
  CHECK(plan.slot == Ints{4, 5, 6, 7, 8, 9});
  CHECK(plan.position == Ints{4, 5, 6, 7, 9, 12});
  CHECK(plan.logit_row == Ints{0, 1, 2, 3});

  plan = plan_one(4, 8, kept, Scope::kBlock, 0);
  CHECK(plan.slot == Ints{4, 5, 6, 7});
  CHECK(plan.position == Ints{4, 5, 6, 7});
  CHECK(plan.logit_row == Ints{0, 1, 2, 3});
  CHECK(plan.logit_position == Ints{4, 5, 6, 7});
  CHECK(plan.n_keys == Ints{10});  // the cached slots stay visible
  CHECK(plan.l_offsets == Ints{0, 4});
}

TEST_CASE("a shift of 1 takes the predecessors' rows into every pass") {
  const Ints kept{9, 12};
  Plan plan = plan_one(4, 8, kept, Scope::kAll, 1);
  CHECK(plan.slot.size() == 10);
  CHECK(plan.logit_row == Ints{3, 4, 5, 6});
  CHECK(plan.logit_position == Ints{4, 5, 6, 7});

  plan = plan_one(4, 8, kept, Scope::kSuffix, 1);
  CHECK(plan.slot == Ints{3, 4, 5, 6, 7, 8, 9});
  CHECK(plan.logit_row == Ints{0, 1, 2, 3});

  plan = plan_one(4, 8, kept, Scope::kBlock, 1);
  CHECK(plan.slot == Ints{3, 4, 5, 6, 7});
  CHECK(plan.position == Ints{3, 4, 5, 6, 7});
  CHECK(plan.logit_row == Ints{0, 1, 2, 3});
}

TEST_CASE("a sliding refresh begins with the block before, or with the block") {
  Batch batch{{8}, {12}, {15, 20}, {2}, {0}};
  batch.first = {4};
  REQUIRE_FALSE(validate(batch.input()));
  Plan plan = plan_pass(batch.input());
  CHECK(plan.slot == Ints{4, 5, 6, 7, 8, 9, 10, 11, 12, 13});
  CHECK(plan.position == Ints{4, 5, 6, 7, 8, 9, 10, 11, 15, 20});
  CHECK(plan.logit_row == Ints{4, 5, 6, 7});
  CHECK(plan.n_keys == Ints{14});
  batch.shift = 1;
  CHECK(plan_pass(batch.input()).slot == plan.slot);
  CHECK(plan_pass(batch.input()).logit_row == Ints{3, 4, 5, 6});
  batch.first = {8};  // nothing before the block: its predecessor joins
  REQUIRE_FALSE(validate(batch.input()));
  plan = plan_pass(batch.input());
  CHECK(plan.slot == Ints{7, 8, 9, 10, 11, 12, 13});
  CHECK(plan.logit_row == Ints{0, 1, 2, 3});
  batch.shift = 0;
  CHECK(plan_pass(batch.input()).slot == Ints{8, 9, 10, 11, 12, 13});
  for (const int64_t scope : {1, 2}) {  // the others compute what they always do
    batch.scope = {scope};
    for (const int64_t first : {0, 3, 8}) {
      batch.first = {first};
      CHECK(plan_pass(batch.input()).slot[0] == 8);
    }
  }
}

TEST_CASE("logit rows begin at the first target") {
  for (const int64_t shift : {0, 1}) {
    Batch batch{{4, 4, 0}, {8, 8, 3}, {}, {0, 0, 0}, {0, 2, 0}, shift};
    batch.first_target = {6, 7, 3};
    REQUIRE_FALSE(validate(batch.input()));
    const Plan plan = plan_pass(batch.input());
    CHECK(plan.logit_position == Ints{6, 7, /**/ 7});
    CHECK(plan.logit_row == (shift == 0 ? Ints{6, 7, /**/ 11} : Ints{5, 6, /**/ 11}));
    CHECK(plan.l_offsets == Ints{0, 2, 3, 3});
    CHECK(plan.position.size() == static_cast<size_t>(8 + 4 + shift + 3));
  }
}

TEST_CASE("block-causal rows look up to the end of their own block") {
  // A prompt of 6 tokens in blocks of 4: its whole block as a prefill, then the second block, of
  // which two positions are prompt.
  Batch batch{{0, 4, 8}, {4, 8, 10}, {}, {0, 0, 0}, {0, 2, 2}};
  batch.first_target = {4, 6, 8};
  batch.block_length = 4;
  REQUIRE_FALSE(validate(batch.input()));
  Plan plan = plan_pass(batch.input());
  CHECK(plan.key_limit == Ints{4, 4, 4, 4, /**/ 8, 8, 8, 8, /**/ 10, 10});
  CHECK(plan.n_keys == Ints{4, 8, 10});
  CHECK(plan.logit_position == Ints{6, 7, 8, 9});
  batch.shift = 1;  // the predecessor sees its own block only
  plan = plan_pass(batch.input());
  CHECK(plan.key_limit == Ints{4, 4, 4, 4, /**/ 4, 8, 8, 8, 8, /**/ 8, 10, 10});
  // Several blocks at once, the last one cut.
  Batch prefill{{0}, {11}, {}, {0}, {0}};
  prefill.first_target = {11}, prefill.block_length = 4;
  plan = plan_pass(prefill.input());
  CHECK(plan.key_limit == Ints{4, 4, 4, 4, 8, 8, 8, 8, 11, 11, 11});
  CHECK(plan.logit_row.empty());
  prefill.block_length = 0;
  CHECK(plan_pass(prefill.input()).key_limit.empty());
}

TEST_CASE("a block at position 0: the first position is its own predecessor") {
  for (const Scope scope : {Scope::kAll, Scope::kSuffix, Scope::kBlock}) {
    CHECK(plan_one(0, 3, {5}, scope, 0).logit_row == Ints{0, 1, 2});
    const Plan shifted = plan_one(0, 3, {5}, scope, 1);
    CHECK(shifted.logit_row == Ints{0, 0, 1});
    CHECK(shifted.logit_position == Ints{0, 1, 2});
    CHECK(shifted.slot[0] == 0);
  }
}

TEST_CASE("the last block and a suffix that came out empty have no rows behind the block") {
  for (const int64_t shift : {0, 1}) {
    const Plan all = plan_one(6, 8, {}, Scope::kAll, shift);
    CHECK(all.position == Ints{0, 1, 2, 3, 4, 5, 6, 7});
    CHECK(all.n_keys == Ints{8});
    CHECK(plan_one(6, 8, {}, Scope::kSuffix, shift).slot ==
          plan_one(6, 8, {}, Scope::kBlock, shift).slot);
  }
}

TEST_CASE("without its predecessor a block's first position is predicted from its own row") {
  Batch batch{{4, 4, 0}, {8, 8, 3}, {9}, {1, 0, 0}, {0, 2, 1}, 1};
  batch.predecessor = {0, 0, 0};
  REQUIRE_FALSE(validate(batch.input()));
  Plan plan = plan_pass(batch.input());
  CHECK(plan.slot == Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, /**/ 4, 5, 6, 7, /**/ 0, 1, 2});
  CHECK(plan.logit_row == Ints{3, 4, 5, 6, /**/ 9, 9, 10, 11, /**/ 13, 13, 14});
  CHECK(plan.logit_position == Ints{4, 5, 6, 7, /**/ 4, 5, 6, 7, /**/ 0, 1, 2});
  batch.first = {4, 0, 0};  // a refresh from the block on: no row before it either
  plan = plan_pass(batch.input());
  CHECK(plan.slot == Ints{4, 5, 6, 7, 8, /**/ 4, 5, 6, 7, /**/ 0, 1, 2});
  CHECK(plan.logit_row == Ints{0, 0, 1, 2, /**/ 5, 5, 6, 7, /**/ 9, 9, 10});
  batch.predecessor = {0, 1, 0};  // each sequence by itself
  plan = plan_pass(batch.input());
  CHECK(plan.slot == Ints{4, 5, 6, 7, 8, /**/ 3, 4, 5, 6, 7, /**/ 0, 1, 2});
  CHECK(plan.logit_row == Ints{0, 0, 1, 2, /**/ 5, 6, 7, 8, /**/ 10, 10, 11});
}

TEST_CASE("slots count from the first one that is looked at") {
  Batch batch{{8, 4}, {12, 8}, {15}, {1, 0}, {0, 2}};
  batch.first = {4, 0}, batch.unseen = {4, 0}, batch.block_length = 4;
  REQUIRE_FALSE(validate(batch.input()));
  const Plan plan = plan_pass(batch.input());
  CHECK(plan.slot == Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, /**/ 4, 5, 6, 7});
  CHECK(plan.position == Ints{4, 5, 6, 7, 8, 9, 10, 11, 15, /**/ 4, 5, 6, 7});
  CHECK(plan.n_keys == Ints{9, 8});
  CHECK(plan.key_limit == Ints{4, 4, 4, 4, 8, 8, 8, 8, 9, /**/ 8, 8, 8, 8});
  CHECK(plan.logit_row == Ints{4, 5, 6, 7, /**/ 9, 10, 11, 12});
}

TEST_CASE("sequences of different lengths and scopes share one pass") {
  Batch batch{{2, 0, 5}, {4, 2, 6}, {7, 9, 6}, {2, 0, 1}, {0, 1, 2}, 1};
  REQUIRE_FALSE(validate(batch.input()));
  const Plan plan = plan_pass(batch.input());
  CHECK(plan.slot == Ints{0, 1, 2, 3, 4, 5, /**/ 0, 1, /**/ 4, 5});
  CHECK(plan.position == Ints{0, 1, 2, 3, 7, 9, /**/ 0, 1, /**/ 4, 5});
  CHECK(plan.q_offsets == Ints{0, 6, 8, 10});
  CHECK(plan.n_keys == Ints{6, 2, 7});
  CHECK(plan.logit_row == Ints{1, 2, /**/ 6, 6, /**/ 8});
  CHECK(plan.logit_position == Ints{2, 3, /**/ 0, 1, /**/ 5});
  CHECK(plan.l_offsets == Ints{0, 2, 4, 5});

  const Batch none{{}, {}, {}, {}, {}};
  const Plan empty = plan_pass(none.input());
  CHECK(empty.slot.empty());
  CHECK(empty.q_offsets == Ints{0});
  CHECK(empty.l_offsets == Ints{0});
}

TEST_CASE("bad plans are refused with argument, element and value") {
  const Batch good{{2, 4}, {4, 6}, {7, 9, 6, 8}, {2, 2}, {0, 2}};
  REQUIRE_FALSE(validate(good.input()));
  const auto refused = [](const Batch& batch, const std::string& argument, int64_t index) {
    const Error error = validate(batch.input());
    return error && argument == error.argument && error.index == index;
  };
  Batch bad = good;
  bad.shift = 2;
  CHECK(refused(bad, "shift", -1));
  bad = good, bad.start[1] = -1;
  CHECK(refused(bad, "start", 1));
  bad = good, bad.end[0] = 2;
  CHECK(refused(bad, "end", 0));
  bad = good, bad.scope[1] = 3;
  CHECK(refused(bad, "scope", 1));
  for (const int64_t count : {-1, 5}) {
    bad = good, bad.kept_count[0] = count;
    CHECK(refused(bad, "kept_count", 0));
  }
  bad = good, bad.kept_count[1] = 3;  // more than there are
  CHECK(refused(bad, "kept_count", 1));
  bad = good, bad.kept_count[1] = 1;  // one is nobody's
  CHECK(refused(bad, "kept", -1));
  for (const int64_t unseen : {-1, 5}) {
    bad = good, bad.unseen[1] = unseen;
    CHECK(refused(bad, "unseen", 1));
  }
  bad = good, bad.kept[0] = 3;  // inside the block
  CHECK(refused(bad, "kept", 0));
  bad = good, bad.kept[3] = 6;  // stands there twice
  CHECK(refused(bad, "kept", 3));
  for (const int64_t first : {-1, 5}) {
    bad = good, bad.first[1] = first;
    CHECK(refused(bad, "first", 1));
  }
  bad = good, bad.predecessor[1] = 2;
  CHECK(refused(bad, "predecessor", 1));
  for (const int64_t target : {1, 5}) {
    bad = good, bad.first_target[0] = target;
    CHECK(refused(bad, "first_target", 0));
  }
  for (const int64_t length : {int64_t{-1}, kMaxPosition + 1}) {
    bad = good, bad.block_length = length;
    CHECK(refused(bad, "block_length", -1));
  }
}

TEST_CASE("values that would overflow or fill the memory are refused at once") {
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  const auto refused = [](Batch batch, const std::string& argument, int64_t index) {
    const Error error = validate(batch.input());
    return error && argument == error.argument && error.index == index;
  };
  CHECK(refused({{kLargest}, {kLargest}, {}, {0}, {0}}, "start", 0));
  CHECK(refused({{0}, {kLargest}, {}, {0}, {2}}, "end", 0));
  CHECK(refused({{0}, {2}, {kLargest}, {1}, {0}}, "kept", 0));
  CHECK(refused({{0}, {2}, {5, kLargest}, {2}, {0}}, "kept", 1));
  CHECK(refused({{0}, {kMaxPosition}, {}, {0}, {0}}, "end", 0));
  CHECK(refused({{0, 0}, {kMaxPassRows, 1}, {}, {0, 0}, {0, 0}}, "end", 1));
  // Far out, but few rows.
  const Batch far{{kMaxPosition - 2}, {kMaxPosition}, {}, {0}, {2}};
  REQUIRE_FALSE(validate(far.input()));
  CHECK(plan_pass(far.input()).n_keys == Ints{kMaxPosition});
}
