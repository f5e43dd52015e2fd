"""Sequences that are replanned: they grow, are masked again, begin anew, alone as beside others."""

import pytest
import torch

from dpad.decode import commit, graphs
from dpad.decode.decoder import Decoder
from dpad.decode.loop import decode
from dpad.decode.replan import MASK, Change, Replan, masked_again, windows, with_masks
from dpad.decode.suffix import Suffix
from dpad.decode.workspace import Workspace
from tests.decode.common import MASK_ID, adapter, sequence
from tests.doubles.recorded_calls import RecordedCalls

PROMPTS = ([1, 2, 3], [4, 5, 6, 7, 8], [9, 10])
NEW, WIDTH = 24, 8
THIN = Suffix("gaussian", window=12, decay=2.0, scale=1.5)


class Grow(Replan):
    """Puts four masks in place of the first mask of a block, once in each of the first two."""

    def __init__(self):
        self.grown = []

    def look(self, seen):
        return seen.masked

    def change(self, q, masked, done):
        if done or q.block > 1 or q.block in self.grown:
            return None
        self.grown.append(q.block)
        at = q.targets[0] + masked.index(1.0)
        source = with_masks(q.length, at, 4, instead=1)
        after = torch.arange(source.shape[0]) >= q.prompt_length
        blocks = windows(~after, q.prompt_length, q.block_length)
        return Change(source, blocks=blocks)


class MaskAgain(Replan):
    """Masks the two least probable tokens of each block again when it is done, once."""

    def __init__(self, refresh):
        self.refresh, self.blocks = refresh, []

    def look(self, seen):
        start, end = seen.q.current
        return seen.canvas.committed[seen.q.row, start:end]

    def change(self, q, committed, done):
        if not done or q.block in self.blocks:
            return None
        self.blocks.append(q.block)
        worst = torch.tensor(committed).argsort(stable=True)[:2] + q.current[0]
        return Change(masked_again(q.length, worst), refresh=self.refresh)


class Again(Replan):
    """After the last block the quarter that was least certain is decoded again, all in view."""

    def __init__(self):
        self.rounds = 0

    def final(self, q):
        return self.rounds == 1

    def look(self, seen):
        return seen.canvas.committed[seen.q.row, seen.q.prompt_length : seen.q.length]

    def change(self, q, committed, done):
        if not done or self.rounds or q.block + 1 < len(q.blocks):
            return None
        self.rounds = 1
        worst = torch.tensor(committed).argsort(stable=True)[: len(committed) // 4]
        source = masked_again(q.length, worst + q.prompt_length)
        blocks = windows(source != MASK, q.prompt_length, q.block_length)
        return Change(source, blocks=blocks, block=0)


PLANS = {
    "grow": (Grow, 6),
    "mask again": (lambda: MaskAgain(False), 0),
    "mask again, refreshed": (lambda: MaskAgain(True), 0),
    "again": (Again, 0),
    "none": (lambda: None, 0),
}
OPTIONS = {"early_stop": False, "rule": commit.threshold(2.0)}  # one token per step


def made(name, number, **options):
    make, more = PLANS[name]
    prompt = PROMPTS[number % len(PROMPTS)]
    capacity = len(prompt) + NEW + more
    changes = {"replan": make(), "capacity": capacity, "number": number, "row_key": number}
    return sequence(prompt, NEW, WIDTH, **{**OPTIONS, **changes, **options})


def run(live, model=None):
    decode(model or adapter(), Workspace(), live)
    return live


def assert_same(got, want):
    assert got.error is None and got.forwards == want.forwards and got.reason == want.reason
    assert torch.equal(got.result.tokens, want.result.tokens)
    assert torch.equal(got.result.committed_at, want.result.committed_at)
    assert len(got.kept_by_block) == len(want.kept_by_block)
    assert all(map(torch.equal, got.kept_by_block, want.kept_by_block))


@pytest.mark.parametrize("suffix", [Suffix("all"), THIN], ids=["all", "thin"])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_alone_as_in_a_batch_as_among_those_that_come_and_go(cache, suffix):
    names = [name for name in PLANS for _ in PROMPTS]
    options = {"cache": cache, "suffix": suffix, "temperature": 1.0}
    model, make = adapter(), lambda: [made(n, i, **options) for i, n in enumerate(names)]
    alone, batch, later = make(), make(), make()
    for q in alone:
        run([q], model)
    for got, want in zip(run(batch, model), alone, strict=True):
        assert_same(got, want)

    workspace, waiting = Workspace(), list(later)
    workspace.reserve(model, 4, 40, 130)
    decoder = Decoder(model, workspace, share=0.15)
    with decoder.stepping():
        while waiting or decoder.live:
            while waiting and decoder.admit(waiting[0]):
                waiting.pop(0)
            decoder.step()
    for got, want in zip(later, alone, strict=True):
        assert_same(got, want)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_a_sequence_that_has_grown_goes_on_as_one_that_begins_so(cache):
    class Stop(Grow):
        def change(self, q, masked, done):
            change = super().change(q, masked, done)
            return change and change._replace(reason="seen")

    (first,) = run([made("grow", 1, cache=cache, replan=Stop())])
    (grown,) = run([made("grow", 1, cache=cache)])
    tokens, length = first.result.tokens, first.prompt_length + NEW + 3
    assert first.reason == "seen" and tokens.shape[0] == length
    committed = first.result.committed_at >= 0
    assert int(committed.sum()) > 0
    assert torch.equal(tokens == MASK_ID, ~committed & (torch.arange(length) >= 5))
    at, change = grown.changes[0]
    assert at == len(first.forwards) - 1 and int((change.source == MASK).sum()) == 4

    plan = Grow()
    plan.grown = [0]
    again = sequence(
        tokens[: first.prompt_length],
        length - first.prompt_length,
        WIDTH,
        **OPTIONS,
        cache=cache,
        replan=plan,
        capacity=length + 3,
        given=tokens != MASK_ID,
    )
    again.tokens = tokens
    run([again])
    assert grown.length == again.length == length + 3
    assert torch.equal(again.result.tokens, grown.result.tokens)
    assert again.forwards == grown.forwards[at + 1 :]


def test_masked_positions_are_decided_again_with_everything_in_view():
    plain, again = made("none", 0), made("again", 0)
    run([plain])
    run([again])
    draft = plain.result
    answer = slice(again.prompt_length, None)
    worst = draft.committed[answer].argsort(stable=True)[: NEW // 4] + again.prompt_length
    later = again.result.committed_at >= len(plain.forwards)
    assert sorted(worst.tolist()) == later.nonzero()[:, 0].tolist()
    assert torch.equal(again.result.tokens[~later], draft.tokens[~later])
    start = again.kept_by_block[len(plain.blocks)]
    assert torch.equal(start, torch.arange(again.blocks[0][1], again.length))


@pytest.mark.parametrize("refresh", [False, True])
def test_a_block_goes_on_after_masks_came_back(refresh):
    plain, again = made("none", 0), made("mask again", 0)
    again.replan = MaskAgain(refresh)
    run([plain])
    run([again])
    # Nothing but the two masked ones was decided later, from the same tokens: forwards grow.
    assert len(again.forwards) > len(plain.forwards)
    assert len(again.kept_by_block) == len(plain.blocks) * (1 + refresh)
    assert (again.result.tokens != MASK_ID).all()
    last = again.result.committed_at.max()
    assert last == len(again.forwards) - 1


def test_a_sequence_that_never_ends_is_stopped():
    class Forever(Replan):
        most_steps = 20

        def change(self, q, numbers, done):
            return Change(masked_again(q.length, range(*q.current))) if done else None

    with pytest.raises(RuntimeError, match="not done after 21 forwards, at most 20 .* of Forever"):
        run([made("none", 0, replan=Forever())])


def test_growth_beyond_the_capacity_is_an_error():
    with pytest.raises(ValueError, match="a change to 30 .* capacity of 29"):
        run([made("grow", 0, capacity=29)])


def test_what_a_replan_raises_ends_its_sequence_alone():
    class Bad(Replan):
        def look(self, seen):
            raise KeyError("mine")

    bad, good = made("none", 0, replan=Bad()), made("grow", 1)
    model, workspace = adapter(), Workspace()
    workspace.reserve(model, 2, 40, 80)
    decoder = Decoder(model, workspace)
    with decoder.stepping():
        assert decoder.admit(bad) and decoder.admit(good)
        while decoder.live:
            decoder.step()
    assert isinstance(bad.error, KeyError) and good.reason == "length"
    assert workspace.arena.ranges.free == 80


def test_finished_text_is_handed_out_once():
    handed = {name: [] for name in PLANS}
    for name in PLANS:
        q = made(name, 0)
        q.hooks = type(q.hooks)(
            on_block=lambda q, tokens, to=handed[name]: to.append(tokens.clone())
        )
        run([q])
        assert torch.equal(torch.cat(handed[name]), q.result.tokens[q.prompt_length :])
    assert [len(t) for t in handed["none"]] == [8, 8, 8]


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_captured_steps_decide_the_same(monkeypatch, cache):
    names = [name for name in PLANS for _ in PROMPTS]
    make = lambda: [made(n, i, cache=cache) for i, n in enumerate(names)]  # noqa: E731
    eager = run(make())
    monkeypatch.setitem(graphs.CAPTURES, "cpu", RecordedCalls)
    live, workspace = make(), Workspace()
    took = decode(adapter(), workspace, live)
    assert took.replayed > 0 and workspace.graphs.why_not is None
    for got, want in zip(live, eager, strict=True):
        assert_same(got, want)
