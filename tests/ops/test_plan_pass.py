"""plan_pass: rows, slots, positions and logit rows of every mode."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import Guarded, assert_same_bits, call, generator, twin

ALL, SUFFIX, BLOCK = 0, 1, 2  # what is computed


def plan_case(seed, batch, scopes, shift, width=12, block_length=0):
    g = generator(seed)
    start = torch.randint(0, 20, (batch,), generator=g)
    end = start + torch.randint(1, 9, (batch,), generator=g)
    count = torch.randint(0, width + 1, (batch,), generator=g)
    kept = [
        e + torch.randperm(40, generator=g)[:n].sort().values
        for e, n in zip(end.tolist(), count.tolist(), strict=True)
    ]
    scope = torch.tensor(scopes, dtype=torch.int64)
    first = (start * torch.rand(batch, generator=g).round(decimals=1)).long()
    joins = torch.randint(0, 2, (batch,), generator=g)
    lowest = (start - shift * joins).clamp(min=0)
    lowest = torch.where((scope == ALL) & (first < start), first, lowest)
    return {
        "start": start,
        "end": end,
        "kept": torch.cat([start[:0], *kept]),
        "kept_count": count,
        "scope": scope,
        "first": first,
        "first_target": start + ((end - start + 1) * torch.rand(batch, generator=g)).long(),
        "unseen": ((lowest + 1) * torch.rand(batch, generator=g)).long(),
        "predecessor": joins,
        "shift": shift,
        "block_length": block_length,
    }


@given(st.data())
def test_random_plans(data):
    scopes = data.draw(st.lists(st.sampled_from((ALL, SUFFIX, BLOCK)), max_size=5))
    seed, shift = data.draw(st.integers(0, 10**6)), data.draw(st.integers(0, 1))
    length = data.draw(st.sampled_from((0, 1, 4, 7, 100)))
    args = plan_case(seed, len(scopes), scopes, shift, data.draw(st.integers(0, 12)), length)
    guarded = Guarded()
    placed = guarded.put_all(args, kept=(None, 3), start=(None, 2))
    plan = call("plan_pass", placed)
    guarded.check()
    assert_same_bits(plan, twin("plan_pass", args))
    check_laws(args, *plan)


def check_laws(args, rows, logit_rows, offsets, n_keys):
    """What a pass must be, whatever the mode."""
    (slot, position, *key_limit), (logit_row, logit_position) = rows, logit_rows
    (q_offsets, l_offsets), length = offsets, args["block_length"]
    assert len(key_limit) == (1 if length else 0)
    behind = args["kept"].split(args["kept_count"].tolist())
    for b in range(len(n_keys)):
        s, e, unseen = (int(args[name][b]) for name in ("start", "end", "unseen"))
        visible = [*range(e), *behind[b].tolist()]
        assert n_keys[b] == len(visible) - unseen
        rows = slice(int(q_offsets[b]), int(q_offsets[b + 1]))
        slots = (slot[rows] + unseen).tolist()
        assert slots == list(range(slots[0], slots[0] + len(slots)))
        assert position[rows].tolist() == [visible[i] for i in slots]
        scope, first = int(args["scope"][b]), int(args["first"][b])
        earlier = scope == ALL and first < s
        before = max(s - args["shift"] * int(args["predecessor"][b]), 0)
        assert slots[0] == (first if earlier else before)
        assert slots[-1] + 1 == (e if scope == BLOCK else len(visible))
        if length:  # the last visible key of a row's own block
            ends = [(p // length + 1) * length for p in position[rows].tolist()]
            limits = [min(end, len(visible)) - unseen for end in ends]
            assert key_limit[0][rows].tolist() == limits
        # Every target has one logit row: its own, or with a shift its predecessor's if that is in
        # the pass.
        t = int(args["first_target"][b])
        predicted = slice(int(l_offsets[b]), int(l_offsets[b + 1]))
        assert logit_position[predicted].tolist() == list(range(t, e))
        sources = position[logit_row[predicted]].tolist()
        assert sources == [max(i - args["shift"], slots[0]) for i in range(t, e)]
        assert all(rows.start <= r < rows.stop for r in logit_row[predicted].tolist())


def plan_of(start, end, kept, scope, shift=0, first=0, first_target=None, block_length=0, **more):
    """(rows, logit rows, offsets, n_keys) of one sequence."""
    one = lambda *values: torch.tensor(values, dtype=torch.int64)  # noqa: E731
    args = {"start": one(start), "end": one(end), "kept": one(*kept)}
    args |= {"kept_count": one(len(kept)), "scope": one(scope), "first": one(first)}
    args["first_target"] = one(start if first_target is None else first_target)
    args |= {"unseen": one(more.get("unseen", 0)), "predecessor": one(more.get("predecessor", 1))}
    return call("plan_pass", {**args, "shift": shift, "block_length": block_length})


def test_the_modes_of_the_design():
    """Prompt and decoded text [0, 3), block [3, 5), scratchpad at 6 and 9."""
    rows, *_ = plan_of(3, 5, [6, 9], ALL)
    assert rows.tolist() == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 6, 9]]
    rows, logit_rows, _, n_keys = plan_of(3, 5, [6, 9], SUFFIX)
    assert rows.tolist() == [[3, 4, 5, 6], [3, 4, 6, 9]]
    assert (n_keys.tolist(), logit_rows[0].tolist()) == ([7], [0, 1])
    rows, logit_rows, _, n_keys = plan_of(3, 5, [6, 9], BLOCK, shift=1)
    assert rows.tolist() == [[2, 3, 4], [2, 3, 4]]
    assert (n_keys.tolist(), logit_rows[0].tolist()) == ([7], [0, 1])


def test_position_zero_predicts_itself():
    for scope in (ALL, SUFFIX, BLOCK):
        _, logit_rows, _, _ = plan_of(0, 3, [], scope, shift=1)
        assert logit_rows.tolist() == [[0, 0, 1], [0, 1, 2]]


def test_a_block_without_its_predecessor():
    """The published caches of shift models: the first position is predicted from its own row."""
    rows, logit_rows, _, _ = plan_of(3, 5, [6], BLOCK, shift=1, predecessor=0)
    assert (rows[0].tolist(), logit_rows.tolist()) == ([3, 4], [[0, 0], [3, 4]])
    rows, logit_rows, _, _ = plan_of(3, 5, [6], ALL, shift=1, predecessor=0)
    assert (rows[0].tolist(), logit_rows[0].tolist()) == ([0, 1, 2, 3, 4, 5], [2, 3])


def test_an_empty_batch():
    plan = call("plan_pass", plan_case(0, 0, [], 0))
    assert [p.tolist() for p in plan] == [[[], []], [[], []], [[0], [0]], []]


def test_a_sliding_refresh():
    """From the block before on: older keys and values stay as they are."""
    rows, logit_rows, _, n_keys = plan_of(6, 8, [9], ALL, first=4)
    assert rows.tolist() == [[4, 5, 6, 7, 8], [4, 5, 6, 7, 9]]
    assert (n_keys.tolist(), logit_rows[0].tolist()) == ([9], [2, 3])
    rows, *_ = plan_of(6, 8, [9], ALL, first=6, shift=1)
    assert rows[0].tolist() == [5, 6, 7, 8]


def test_slots_count_from_the_first_that_is_seen():
    """A text of 8 of which the last block before [8, 12) is looked at."""
    rows, logit_rows, _, n_keys = plan_of(8, 12, [], BLOCK, block_length=4, unseen=4)
    assert rows.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [8, 8, 8, 8]]
    assert (n_keys.tolist(), logit_rows[0].tolist()) == ([8], [0, 1, 2, 3])


def test_block_causal_phases():
    """A prompt of 6 in blocks of 4: prefill, the block with its ineligible tail, save."""
    (slot, _, limit), logit_rows, _, n_keys = plan_of(0, 4, [], ALL, 0, 0, 4, 4)
    assert (slot.tolist(), n_keys.tolist()) == ([0, 1, 2, 3], [4])
    assert logit_rows.tolist() == [[], []]
    assert limit.tolist() == [4, 4, 4, 4]
    (slot, _, limit), logit_rows, _, n_keys = plan_of(4, 8, [], BLOCK, 0, 0, 6, 4)
    assert (slot.tolist(), n_keys.tolist()) == ([4, 5, 6, 7], [8])
    assert (logit_rows.tolist(), limit.tolist()) == ([[2, 3], [6, 7]], [8] * 4)
    (slot, *_), logit_rows, *_ = plan_of(4, 8, [], BLOCK, 0, 0, 8, 4)
    assert (slot.tolist(), logit_rows.tolist()) == ([4, 5, 6, 7], [[], []])
