"""plan_pass: rows, slots, positions and logit rows of every mode."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import Guarded, assert_same_bits, call, generator, twin

ALL, SUFFIX, BLOCK = 0, 1, 2  # what is computed


def plan_case(seed, batch, scopes, shift, width=12):
    g = generator(seed)
    start = torch.randint(0, 20, (batch,), generator=g)
    end = start + torch.randint(1, 9, (batch,), generator=g)
    kept = torch.full((batch, width), -1)
    count = torch.randint(0, width + 1, (batch,), generator=g)
    for b, n in enumerate(count.tolist()):
        kept[b, :n] = end[b] + torch.randperm(40, generator=g)[:n].sort().values
    return {
        "start": start,
        "end": end,
        "kept": kept,
        "kept_count": count,
        "scope": torch.tensor(scopes, dtype=torch.int64),
        "shift": shift,
    }


@given(st.data())
def test_random_plans(data):
    scopes = data.draw(st.lists(st.sampled_from((ALL, SUFFIX, BLOCK)), max_size=5))
    seed, shift = data.draw(st.integers(0, 10**6)), data.draw(st.integers(0, 1))
    args = plan_case(seed, len(scopes), scopes, shift, data.draw(st.integers(0, 12)))
    guarded = Guarded()
    placed = guarded.put_all(args, kept=((1, 0), 1), start=(None, 2))
    plan = call("plan_pass", placed)
    guarded.check()
    assert_same_bits(plan, twin("plan_pass", args))
    check_laws(args, *plan)


def check_laws(args, slot, position, q_offsets, n_keys, logit_row, logit_position, l_offsets):
    """What a pass must be, whatever the mode."""
    for b in range(len(n_keys)):
        s, e = int(args["start"][b]), int(args["end"][b])
        kept = args["kept"][b, : int(args["kept_count"][b])].tolist()
        visible = [*range(e), *kept]
        assert n_keys[b] == len(visible)
        rows = slice(int(q_offsets[b]), int(q_offsets[b + 1]))
        slots = slot[rows].tolist()
        assert slots == list(range(slots[0], slots[0] + len(slots)))
        assert position[rows].tolist() == [visible[i] for i in slots]
        scope, first = int(args["scope"][b]), max(s - args["shift"], 0)
        assert slots[0] == (0 if scope == ALL else first)
        assert slots[-1] + 1 == (e if scope == BLOCK else len(visible))
        # Every block position has one logit row: its own, or with a shift its predecessor's.
        predicted = slice(int(l_offsets[b]), int(l_offsets[b + 1]))
        assert logit_position[predicted].tolist() == list(range(s, e))
        sources = position[logit_row[predicted]].tolist()
        assert sources == [max(i - args["shift"], 0) for i in range(s, e)]
        assert all(rows.start <= r < rows.stop for r in logit_row[predicted].tolist())


def plan_of(start, end, kept, scope, shift=0):
    one = lambda *values: torch.tensor([values], dtype=torch.int64)  # noqa: E731
    args = {"start": one(start)[0], "end": one(end)[0], "kept": one(*kept)}
    return call("plan_pass", {**args, "kept_count": one(len(kept))[0], "scope": one(scope)[0],
                              "shift": shift})  # fmt: skip


def test_the_modes_of_the_design():
    """Prompt and decoded text [0, 3), block [3, 5), scratchpad at 6 and 9."""
    slot, position, *_ = plan_of(3, 5, [6, 9], ALL)
    assert slot.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert position.tolist() == [0, 1, 2, 3, 4, 6, 9]
    slot, position, _, n_keys, logit_row, *_ = plan_of(3, 5, [6, 9], SUFFIX)
    assert (slot.tolist(), position.tolist()) == ([3, 4, 5, 6], [3, 4, 6, 9])
    assert (n_keys.tolist(), logit_row.tolist()) == ([7], [0, 1])
    slot, position, _, n_keys, logit_row, *_ = plan_of(3, 5, [6, 9], BLOCK, shift=1)
    assert (slot.tolist(), position.tolist()) == ([2, 3, 4], [2, 3, 4])
    assert (n_keys.tolist(), logit_row.tolist()) == ([7], [0, 1])


def test_position_zero_predicts_itself():
    for scope in (ALL, SUFFIX, BLOCK):
        *_, logit_row, logit_position, _ = plan_of(0, 3, [], scope, shift=1)
        assert logit_row.tolist() == [0, 0, 1] and logit_position.tolist() == [0, 1, 2]


def test_an_empty_batch():
    plan = call("plan_pass", plan_case(0, 0, [], 0))
    assert [p.tolist() for p in plan] == [[], [], [0], [], [], [], [0]]
