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
        "first": (start * torch.rand(batch, generator=g).round(decimals=1)).long(),
        "first_target": start + ((end - start + 1) * torch.rand(batch, generator=g)).long(),
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
    placed = guarded.put_all(args, kept=((1, 0), 1), start=(None, 2))
    plan = call("plan_pass", placed)
    guarded.check()
    assert_same_bits(plan, twin("plan_pass", args))
    check_laws(args, *plan)


def check_laws(args, slot, position, q_offsets, n_keys, *results):
    """What a pass must be, whatever the mode."""
    logit_row, logit_position, l_offsets, key_limit = results
    length = args["block_length"]
    assert len(key_limit) == (len(slot) if length else 0)
    for b in range(len(n_keys)):
        s, e = int(args["start"][b]), int(args["end"][b])
        kept = args["kept"][b, : int(args["kept_count"][b])].tolist()
        visible = [*range(e), *kept]
        assert n_keys[b] == len(visible)
        rows = slice(int(q_offsets[b]), int(q_offsets[b + 1]))
        slots = slot[rows].tolist()
        assert slots == list(range(slots[0], slots[0] + len(slots)))
        assert position[rows].tolist() == [visible[i] for i in slots]
        scope, first = int(args["scope"][b]), int(args["first"][b])
        earlier = scope == ALL and first < s
        assert slots[0] == (first if earlier else max(s - args["shift"], 0))
        assert slots[-1] + 1 == (e if scope == BLOCK else len(visible))
        if length:  # the last visible key of a row's own block
            ends = [(p // length + 1) * length for p in position[rows].tolist()]
            assert key_limit[rows].tolist() == [min(e, len(visible)) for e in ends]
        # Every target has one logit row: its own, or with a shift its predecessor's.
        t = int(args["first_target"][b])
        predicted = slice(int(l_offsets[b]), int(l_offsets[b + 1]))
        assert logit_position[predicted].tolist() == list(range(t, e))
        sources = position[logit_row[predicted]].tolist()
        assert sources == [max(i - args["shift"], 0) for i in range(t, e)]
        assert all(rows.start <= r < rows.stop for r in logit_row[predicted].tolist())


def plan_of(start, end, kept, scope, shift=0, first=0, first_target=None, block_length=0):
    one = lambda *values: torch.tensor(values, dtype=torch.int64)  # noqa: E731
    args = {"start": one(start), "end": one(end), "kept": one(*kept)[None]}
    args |= {"kept_count": one(len(kept)), "scope": one(scope), "first": one(first)}
    args["first_target"] = one(start if first_target is None else first_target)
    return call("plan_pass", {**args, "shift": shift, "block_length": block_length})


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
        *_, logit_row, logit_position, _, _ = plan_of(0, 3, [], scope, shift=1)
        assert logit_row.tolist() == [0, 0, 1] and logit_position.tolist() == [0, 1, 2]


def test_an_empty_batch():
    plan = call("plan_pass", plan_case(0, 0, [], 0))
    assert [p.tolist() for p in plan] == [[], [], [0], [], [], [], [0], []]


def test_a_sliding_refresh():
    """From the block before on: older keys and values stay as they are."""
    slot, position, _, n_keys, logit_row, *_ = plan_of(6, 8, [9], ALL, first=4)
    assert (slot.tolist(), position.tolist()) == ([4, 5, 6, 7, 8], [4, 5, 6, 7, 9])
    assert (n_keys.tolist(), logit_row.tolist()) == ([9], [2, 3])
    slot, *_ = plan_of(6, 8, [9], ALL, first=6, shift=1)
    assert slot.tolist() == [5, 6, 7, 8]


def test_block_causal_phases():
    """A prompt of 6 in blocks of 4: prefill, the block with its ineligible tail, save."""
    slot, _, _, n_keys, logit_row, *_, limit = plan_of(0, 4, [], ALL, 0, 0, 4, 4)
    assert (slot.tolist(), n_keys.tolist(), logit_row.tolist()) == ([0, 1, 2, 3], [4], [])
    assert limit.tolist() == [4, 4, 4, 4]
    slot, _, _, n_keys, row, target, _, limit = plan_of(4, 8, [], BLOCK, 0, 0, 6, 4)
    assert (slot.tolist(), n_keys.tolist()) == ([4, 5, 6, 7], [8])
    assert (row.tolist(), target.tolist(), limit.tolist()) == ([2, 3], [6, 7], [8] * 4)
    slot, *_, row, target, _, limit = plan_of(4, 8, [], BLOCK, 0, 0, 8, 4)
    assert (slot.tolist(), row.tolist(), target.tolist()) == ([4, 5, 6, 7], [], [])
