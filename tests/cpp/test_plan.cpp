// The planner: rows, slots, positions and logit rows of one pass.
#include <string>
#include <vector>

#include "catch.h"
#include "core/plan.h"

using namespace dpad;
using Ints = std::vector<int64_t>;

namespace {

// A batch with a fixed number of columns for the kept positions.
struct Batch {
  Ints start, end, kept, kept_count, scope;
  int64_t shift = 0;
  int64_t columns = 0;

  PlanInput input() const {
    return {start.data(),
            end.data(),
            kept.data(),
            columns,
            kept_count.data(),
            scope.data(),
            static_cast<int64_t>(start.size()),
            shift};
  }
};

Plan plan_one(int64_t start, int64_t end, const Ints& kept, Scope scope, int64_t shift) {
  const auto count = static_cast<int64_t>(kept.size());
  const Batch batch{{start}, {end}, kept, {count}, {static_cast<int64_t>(scope)}, shift, count};
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

TEST_CASE("sequences of different lengths and scopes share one pass") {
  Batch batch{{2, 0, 5}, {4, 2, 6}, {7, 9, -1, -1, 6, -1}, {2, 0, 1}, {0, 1, 2}, 1, 2};
  REQUIRE_FALSE(validate(batch.input()));
  const Plan plan = plan_pass(batch.input());
  CHECK(plan.slot == Ints{0, 1, 2, 3, 4, 5, /**/ 0, 1, /**/ 4, 5});
  CHECK(plan.position == Ints{0, 1, 2, 3, 7, 9, /**/ 0, 1, /**/ 4, 5});
  CHECK(plan.q_offsets == Ints{0, 6, 8, 10});
  CHECK(plan.n_keys == Ints{6, 2, 7});
  CHECK(plan.logit_row == Ints{1, 2, /**/ 6, 6, /**/ 8});
  CHECK(plan.logit_position == Ints{2, 3, /**/ 0, 1, /**/ 5});
  CHECK(plan.l_offsets == Ints{0, 2, 4, 5});

  const Batch none{{}, {}, {}, {}, {}, 0, 0};
  const Plan empty = plan_pass(none.input());
  CHECK(empty.slot.empty());
  CHECK(empty.q_offsets == Ints{0});
  CHECK(empty.l_offsets == Ints{0});
}

TEST_CASE("bad plans are refused with argument, element and value") {
  const Batch good{{2, 4}, {4, 6}, {7, 9, 6, 8}, {2, 2}, {0, 2}, 0, 2};
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
  bad = good, bad.kept_count[0] = 3;
  CHECK(refused(bad, "kept_count", 0));
  bad = good, bad.kept[0] = 3;  // inside the block
  CHECK(refused(bad, "kept", 0));
  bad = good, bad.kept[3] = 6;  // stands there twice
  CHECK(refused(bad, "kept", 3));
}
