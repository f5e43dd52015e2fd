"""unmask_: the commit rules by brute force, eligibility, status, end of text, and the twin."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import Guarded, assert_same_bits, call, copied, generator, offsets_of, twin
from op_samples import WRITTEN

from dpad import ops

pytestmark = pytest.mark.usefixtures("device")

MASK, FILL, END = 99, 2, (2, 3)
ALL = 2**62  # a quota that never binds
NAN, INF = float("nan"), float("inf")


def step_case(seed, counts, rule="threshold", rule_value=0.5, quota=ALL, masked=0.7, ties=False):
    """One step of sequences whose blocks hold these many positions of a canvas of 30."""
    g = generator(seed)
    batch, rows, length = len(counts), sum(counts), 30
    drawn = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    canvas = torch.randint(0, 90, (batch + 1, length), generator=g)
    canvas[drawn(batch + 1, length) < masked] = MASK
    position = [torch.randperm(length, generator=g)[:n] for n in counts]
    used = [int(p.max()) + 1 if len(p) else 0 for p in position]  # of the canvas
    score = drawn(rows) if not ties else torch.randint(0, 4, (rows,), generator=g).double() / 4
    return {
        "canvas": canvas,
        "committed_at": torch.full((batch + 1, length), -1),
        "committed": torch.zeros(batch + 1, length, dtype=torch.float64),
        "masks_left": torch.full((batch + 1,), -7),
        "status": torch.full((batch + 1,), -7),
        "forward": torch.randint(0, 50, (batch + 1,), generator=g),
        "canvas_row": torch.randperm(batch + 1, generator=g)[:batch],
        "l_offsets": offsets_of(counts),
        "position": torch.cat([*position, torch.zeros(0, dtype=torch.int64)]),
        "token": torch.randint(0, 90, (rows,), generator=g),
        "score": score,
        "probability": drawn(rows),
        "rule_value": torch.full((batch,), rule_value, dtype=torch.float64),
        "quota": torch.full((batch,), quota),
        "length": torch.tensor(
            [most + int(drawn(1) * (length + 1 - most)) for most in used], dtype=torch.int64
        ),
        "end_ids": torch.tensor(END),
        "rule": ops.RULES[rule],
        "early_stop": 0,
        "mask_id": MASK,
        "fill_id": FILL,
    }


def block(scores, rule, rule_value=0.0, quota=ALL, masked=None, **changes):
    """One sequence, its block the positions 1.. of a canvas with room around it."""
    n = len(scores)
    args = step_case(0, [n], rule, rule_value, quota, masked=0.0)
    args["canvas_row"] = torch.tensor([1])
    args["position"], args["length"] = torch.arange(1, n + 1), torch.tensor([30])
    args["canvas"][1, 1 : n + 1] = MASK
    if masked is not None:
        args["canvas"][1, 1 : n + 1] = torch.where(torch.tensor(masked), MASK, 50)
    args["token"] = torch.arange(10, 10 + n)
    args["score"] = torch.tensor(scores, dtype=torch.float64)
    return {**args, **changes}


def committed(args):
    """Runs the kernel; the block's indices that it committed."""
    now = args["forward"].clone()
    assert call("unmask_", args) is None
    rows = args["canvas_row"]
    assert torch.equal(args["forward"][rows], now[rows] + 1)
    at = args["committed_at"][1, args["position"]]
    chosen = (at == now[1]).nonzero().flatten()
    assert torch.equal(args["canvas"][1, args["position"][chosen]], args["token"][chosen])
    assert torch.equal(args["committed"][1, args["position"][chosen]], args["probability"][chosen])
    return chosen.tolist()


def check_twin(args):
    plain = copied(args)
    call("unmask_", args)
    twin("unmask_", plain)
    for name in WRITTEN["unmask_"]:
        assert_same_bits(args[name], plain[name])


@given(st.data())
def test_random_steps_equal_the_twin(data):
    """Every rule, ragged batches, ties, NaN and infinite scores, ends of text."""
    args = step_case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.lists(st.integers(0, 12), max_size=4)),
        data.draw(st.sampled_from(sorted(ops.RULES))),
        data.draw(st.sampled_from((-1.0, 0.0, 0.25, 0.5, 0.9, 1.0, 1.5, INF))),
        data.draw(st.sampled_from((-1, 0, 1, 2, 5, 99))),
        data.draw(st.sampled_from((0.0, 0.5, 0.9, 1.0))),
        data.draw(st.booleans()),
    )
    args["early_stop"] = data.draw(st.sampled_from(sorted(ops.STOPS.values())))
    if args["score"].numel() and data.draw(st.booleans()):
        args["score"][0] = data.draw(st.sampled_from((NAN, INF, -INF)))
    guarded = Guarded()
    placed = guarded.put_all(args, written=WRITTEN["unmask_"], position=(None, 2), score=(None, 1))
    check_twin(placed)
    guarded.check()


def best(scores, m, lowest=False):
    order = sorted(range(len(scores)), key=lambda i: (scores[i] if lowest else -scores[i], i))
    return sorted(order[:m])


RANDOM = st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=1, max_size=9)


@given(RANDOM, st.sampled_from((0.0, 0.3, 0.6, 0.95, 1.0)))
def test_threshold_commits_all_at_or_above_it(scores, rule_value):
    above = [i for i, s in enumerate(scores) if s >= rule_value]
    assert committed(block(scores, "threshold", rule_value)) == (above or best(scores, 1))


@given(RANDOM, st.sampled_from((0.0, 0.5, 1.0, 2.5)))
def test_factor_commits_the_longest_safe_prefix(scores, rule_value):
    """Largest m with (j + 1)(1 - score_j) <= rule_value for every j = 2..m (arXiv 2505.22618)."""
    ranked = sorted(scores, reverse=True)
    safe = lambda j: rule_value > 0 and (j + 1) * (1 - ranked[j - 1]) <= rule_value  # noqa: E731
    m = max(m for m in range(1, len(ranked) + 1) if all(safe(j) for j in range(2, m + 1)))
    assert committed(block(scores, "factor", rule_value)) == best(scores, m)


@given(RANDOM, st.sampled_from((0.5, 1.0, 2.5)))
def test_published_factor_overlooks_the_last_failure(scores, rule_value):
    ranked, n = sorted(scores, reverse=True), len(scores)
    taken = n
    for j in range(1, n):  # the released loop takes a failure at the last for none at all
        if ranked[j] < 1 - rule_value / (j + 2):
            taken = n if j == n - 1 else j
            break
    assert committed(block(scores, "factor_published", rule_value)) == best(scores, taken)


@given(RANDOM, st.integers(-1, 12))
def test_quota_commits_that_many(scores, quota):
    wanted = min(max(quota, 0), len(scores))
    assert committed(block(scores, "quota", quota=quota)) == best(scores, wanted)


@given(RANDOM, st.sampled_from((0.0, 0.3, 0.6, 1.5)), st.integers(0, 12))
def test_at_least_commits_the_sure_ones_and_the_best_of_the_quota(scores, rule_value, quota):
    """SDAR's dynamic rule, its quota clamped to the masks (arXiv 2510.06303)."""
    sure = max(sum(s >= rule_value for s in scores), 1)
    wanted = 0 if quota == 0 else min(max(sure, quota), len(scores))
    assert committed(block(scores, "at_least", rule_value, quota)) == best(scores, wanted)


@given(RANDOM, st.sampled_from((0.0, 0.2, 0.7, 3.0)))
def test_entropy_sum_stays_below_the_bound(scores, rule_value):
    ranked = sorted(scores)
    m = sum(sum(ranked[:k]) < rule_value for k in range(1, len(ranked) + 1))
    assert committed(block(scores, "entropy_sum", rule_value)) == best(
        scores, max(m, 1), lowest=True
    )


@pytest.mark.parametrize("behind_a_mask", [False, True])
def test_an_end_without_masks_before_it_ends_the_text(behind_a_mask):
    scores = [0.9, 0.1, 0.9, 0.2] if behind_a_mask else [0.9, 0.9, 0.1, 0.2]
    args = block(scores, "threshold", 0.5, early_stop=ops.STOPS["text"])
    at = 2 if behind_a_mask else 1
    args["token"][at], args["canvas"][1, 6:9] = END[1], MASK
    args["length"][0] = 8
    assert committed(args) == [0, at]
    assert args["status"][1] == ops.STATUS["running" if behind_a_mask else "finished"]
    masks = (args["canvas"][1] == MASK).nonzero()[:, 0].tolist()
    assert masks == ([2, 4, 6, 7, 8] if behind_a_mask else [8])
    assert args["masks_left"][1] == (2 if behind_a_mask else 0)


@given(RANDOM, st.sampled_from((0.0, 0.2, 0.7, 3.0)))
def test_entropy_bound_leaves_out_the_largest(scores, rule_value):
    """The most tokens whose entropies, without the largest, sum to at most the bound."""
    ranked = sorted(scores)
    m = 1
    while m < len(ranked) and sum(ranked[:m]) <= rule_value:
        m += 1
    assert committed(block(scores, "entropy_bound", rule_value)) == best(scores, m, lowest=True)


@given(RANDOM, st.sampled_from((-1.0, 0.0, 0.3, 0.95, INF)))
def test_below_commits_all_below_it(scores, rule_value):
    """The independent draws of Dream's "origin" (arXiv 2508.15487): possibly none."""
    assert committed(block(scores, "below", rule_value)) == [
        i for i, s in enumerate(scores) if s < rule_value
    ]


@given(RANDOM, st.sampled_from(sorted(set(ops.RULES) - {"at_least"})), st.integers(-1, 12))
def test_no_rule_commits_more_than_the_quota(scores, rule, quota):
    """A quota takes the first of those that the rule alone would commit, in its order; that of
    "at_least" is no cap.
    """
    free = committed(block(scores, rule, 0.5))
    lowest = rule in ("entropy_bound", "below", "entropy_sum")
    held = committed(block(scores, rule, 0.5, quota))
    assert held == best(scores, min(len(free), max(quota, 0)), lowest)


@pytest.mark.parametrize(
    ("rule", "rule_value", "quota"),
    [("threshold", 1.01, ALL), ("factor", 0.0, ALL), ("quota", 0.0, 1), ("threshold", 0.0, 1)],
)
def test_one_token_per_step(rule, rule_value, quota):
    """threshold > 1, factor 0 and quota 1 all fill a block best first, in as many steps."""
    scores = torch.rand(12, generator=generator(3), dtype=torch.float64).tolist()
    args = block(scores, rule, rule_value, quota)
    order = best(scores, 12)
    order.sort(key=lambda i: -scores[i])
    for step, expected in enumerate(order):
        assert args["masks_left"][1] == (12 - step if step else -7)
        assert committed(args) == [expected]
        done = step == 11
        assert args["status"][1] == ops.STATUS["block_done" if done else "running"]


def test_ties_go_to_the_first_row():
    assert committed(block([0.5, 0.5, 0.5, 0.5], "quota", quota=2)) == [0, 1]
    assert committed(block([0.5, 0.5, 0.5], "entropy_bound", -1.0)) == [0]


@pytest.mark.parametrize("rule", sorted(set(ops.RULES) - {"below"}))
def test_one_is_committed_whatever_the_scores(rule):
    assert len(committed(block([-INF, -INF, -INF], rule, rule_value=-9.0, quota=1))) >= 1
    assert committed(block([0.1, 0.9, 0.2], rule, 0.0, 1, masked=[False, False, True]))[-1] == 2


@pytest.mark.parametrize("rule", sorted(ops.RULES))
def test_filled_positions_are_never_touched(rule):
    args = block([0.9, 0.8, 0.99, 0.7], rule, 0.95, 4, masked=[True, False, False, True])
    assert set(committed(args)) <= {0, 3}
    assert args["canvas"][1, 2:4].tolist() == [50, 50]


def test_nan_commits_nothing():
    args = block([0.9, NAN, 0.8], "threshold", 0.5)
    args["masks_left"][1] = 3
    before = args["canvas"].clone()
    assert committed(args) == []
    assert args["status"][1] == ops.STATUS["nan"]
    assert args["masks_left"][1] == 3 and torch.equal(args["canvas"], before)
    # ... unless the position is already filled.
    args = block([0.9, NAN, 0.8], "threshold", 0.5, masked=[True, False, True])
    assert committed(args) == [0, 2]


def test_a_block_without_masks_is_done():
    args = block([0.5, 0.5], "threshold", 0.5, masked=[False, False])
    assert committed(args) == []
    assert args["masks_left"][1] == 0 and args["status"][1] == ops.STATUS["block_done"]


@pytest.mark.parametrize("stop", [True, False])
def test_an_end_in_a_finished_block_fills_the_rest(stop):
    """Masks behind the block become fill up to the length; other tokens stay."""
    args = block([0.9, 0.9, 0.9], "threshold", 0.5, early_stop=stop)
    args["token"][1] = END[1]
    args["canvas"][1, 4:9] = torch.tensor([MASK, 7, MASK, MASK, MASK])
    args["length"][0] = 7
    assert committed(args) == [0, 1, 2]
    after = [FILL, 7, FILL, MASK, MASK] if stop else [MASK, 7, MASK, MASK, MASK]
    assert args["canvas"][1, 4:9].tolist() == after
    assert args["status"][1] == ops.STATUS["finished" if stop else "block_done"]


def test_an_end_in_an_unfinished_block_waits():
    args = block([0.9, 0.1, 0.9], "threshold", 0.5, early_stop=True)
    args["token"][0] = END[0]
    assert committed(args) == [0, 2]
    assert args["status"][1] == ops.STATUS["running"] and args["masks_left"][1] == 1


def test_a_pass_without_targets_finishes_nothing():
    """A prefill, a save: nothing is predicted. The pass is counted, nothing else changes."""
    for early_stop in (False, True):
        args = block([], "threshold", 0.5, early_stop=early_stop)
        args["canvas"][1, :4] = torch.tensor([END[0], 5, MASK, MASK])
        args["masks_left"][1] = 2
        check_twin(copied(args))
        before = copied(args)
        call("unmask_", args)
        assert args["status"][1] == ops.STATUS["running"]
        assert args["forward"][1] == before["forward"][1] + 1
        for name in ("canvas", "committed_at", "committed", "masks_left"):
            assert_same_bits(args[name], before[name])


@pytest.mark.parametrize("where", [2, 4, 6])  # before the targets, between, and behind them
def test_only_the_targets_are_searched_for_an_end(where):
    """The prompt's tail shares the first block of a block-causal model; its end ids end nothing."""
    args = block([0.9, 0.9], "threshold", 0.5, early_stop=True)
    args["position"] = torch.tensor([3, 5])
    args["canvas"][1, :8] = torch.tensor([7, 7, 7, MASK, 7, MASK, 7, 7])
    args["canvas"][1, where] = END[0]
    args["length"][0] = 8
    ended = copied(args)
    ended["token"][1] = END[0]  # among the targets it does
    for case, status in ((args, "block_done"), (ended, "finished")):
        check_twin(copied(case))
        call("unmask_", case)
        assert case["status"][1] == ops.STATUS[status]


def test_filled_positions_may_stand_there_twice():
    """As the padding of a captured step does; only an eligible one would be counted twice."""
    args = block([0.9, 0.8, 0.7], "threshold", 0.5, masked=[False, True, False])
    args["position"] = torch.tensor([1, 2, 1])
    check_twin(copied(args))
    assert committed(args) == [1]


def test_sequences_are_independent():
    """Each sequence alone gives what it gives in the batch, and no other canvas moves."""
    whole = step_case(11, [5, 0, 9], "threshold", 0.6)
    start = copied(whole)
    call("unmask_", whole)
    offsets = start["l_offsets"].tolist()
    for b, row in enumerate(start["canvas_row"].tolist()):
        alone = copied(start)
        rows = slice(offsets[b], offsets[b + 1])
        alone["l_offsets"] = torch.tensor([0, rows.stop - rows.start])
        for name in ("canvas_row", "rule_value", "quota", "length"):
            alone[name] = start[name][b : b + 1]
        for name in ("position", "token", "score", "probability"):
            alone[name] = start[name][rows]
        call("unmask_", alone)
        for name in WRITTEN["unmask_"]:
            assert_same_bits(alone[name][row], whole[name][row])
            others = torch.arange(4) != row
            assert_same_bits(alone[name][others], start[name][others])
