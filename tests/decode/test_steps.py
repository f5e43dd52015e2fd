"""What a caller can do in a step: edit the logits, see what was decided, write to the canvas."""

import pytest
import torch

from dpad.decode import commit
from dpad.decode.canvas import Canvas
from dpad.decode.loop import NaNLogitsError, Settings, decode
from dpad.decode.suffix import Suffix
from dpad.decode.workspace import Workspace
from tests.decode.common import EOS_ID, MASK_ID, VOCAB, adapter

PROMPTS = ([1, 2, 3], [4, 5, 6, 7, 8])
NEW, WIDTH = 24, 8


def run(model=None, prompts=PROMPTS, **settings):
    fields = {"rule": commit.threshold(0.5), "suffix": Suffix("all"), "block_length": WIDTH}
    fields |= {"suppress": (MASK_ID,), "end_ids": (EOS_ID,), "fill_id": EOS_ID, **settings}
    prompts = [torch.tensor(p) for p in prompts]
    keys = list(range(len(prompts)))
    cache = Workspace()
    return decode(model or adapter(), cache, prompts, NEW, keys, Settings(**fields), MASK_ID)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_hooks_that_look_change_nothing_and_cost_no_read(cache, monkeypatch):
    reads = []
    read = Canvas.read_status
    monkeypatch.setattr(Canvas, "read_status", lambda self: reads.append(1) or read(self))
    plain = run(cache=cache)
    passes, logits_rows, numbers, committed = len(reads), [], [], 0
    assert passes == len(plain.steps)
    reads.clear()

    def process(live, targets, logits, canvas):
        assert logits.shape == (targets.position.shape[0], VOCAB)
        assert targets.l_offsets.shape[0] == len(live) + 1
        logits_rows.append(logits.shape[0])
        return logits

    def look(step):
        nonlocal committed
        numbers.append(step.number)
        rows = torch.repeat_interleave(step.targets.canvas_row, step.targets.l_offsets.diff())
        forward = torch.tensor([len(q.forwards) for q in step.live])
        now = torch.repeat_interleave(forward, step.targets.l_offsets.diff())
        at = rows, step.targets.position
        new = step.canvas.committed_at[at] == now
        committed += int(new.sum())
        assert torch.equal(step.canvas.tokens[at][new], step.token[new])
        assert torch.equal(step.canvas.committed[at][new], step.probability[new])

    seen = run(cache=cache, process_logits=process, on_step=look)
    assert torch.equal(seen.canvas.tokens, plain.canvas.tokens)
    assert len(reads) == passes == len(numbers) == len(logits_rows)
    assert numbers == list(range(passes))
    assert committed == int((plain.canvas.committed_at >= 0).sum())


def test_edited_logits_decide():
    def only_seven(live, targets, logits, canvas):
        logits[:, 7] += 1000
        return logits

    out = run(process_logits=only_seven)
    for row, length in enumerate(out.canvas.lengths):
        assert (out.canvas.tokens[row, length - NEW : length] == 7).all()
    assert len(out.steps) == NEW // WIDTH


def test_a_position_that_is_masked_again_is_decided_again():
    plain, done = run(), []

    def mask_once(step):
        if not done:
            done.append(step.number)
            step.canvas.tokens[0, 3 : 3 + WIDTH] = MASK_ID
            step.settle()

    out = run(on_step=mask_once)
    assert torch.equal(out.canvas.tokens, plain.canvas.tokens)
    assert len(out.sequences[0].forwards) == len(plain.sequences[0].forwards) + 1
    assert out.sequences[1].forwards == plain.sequences[1].forwards
    assert (out.canvas.committed_at[0, 3 : 3 + WIDTH] >= 1).all()
    assert torch.equal(out.canvas.forward, torch.tensor([len(q.forwards) for q in out.sequences]))


def test_positions_that_are_filled_finish_the_block():
    def fill(step):
        for q in step.live:
            begin, end = q.current
            free = step.canvas.tokens[q.row, begin:end] == MASK_ID
            step.canvas.tokens[q.row, begin:end][free] = 9
        step.settle()

    out = run(on_step=fill, early_stop=False)
    assert [q.forwards for q in out.sequences] == [[0, 1, 2]] * 2
    committed = out.canvas.committed_at[0, 3 : 3 + NEW]
    assert committed.tolist() == [0] * WIDTH + [1] * WIDTH + [2] * WIDTH
    filled = out.canvas.tokens[0, 3 : 3 + NEW] == 9
    assert filled.any() and (out.canvas.committed[0, 3 : 3 + NEW][filled] == 1).any()


@pytest.mark.parametrize("first, then, reason", [(EOS_ID, 5, "length"), (5, EOS_ID, "stop")])
def test_an_end_that_is_written_or_taken_away_counts(first, then, reason):
    """The model says `first` in its first pass; `then`, written over it, decides what follows."""
    passes = []

    def say(live, targets, logits, canvas):
        logits[:, 5 if passes else first] += 1000
        passes.append(len(live))
        return logits

    def write(step):
        if step.number == 0:
            for q in step.live:
                step.canvas.tokens[q.row, q.current[0] : q.current[1]] = then
            step.settle()

    out = run(process_logits=say, on_step=write)
    assert out.reasons == [reason] * 2
    blocks = [0] if reason == "stop" else [0, 1, 2]
    assert [q.forwards for q in out.sequences] == [blocks] * 2
    if reason == "length":  # the tail that the first commit had filled was decoded after all
        assert all((out.canvas.tokens[r, n - NEW : n] == 5).all() for r, n in enumerate((27, 29)))


@pytest.mark.parametrize("schedule", ["linear", "dream"])
def test_quotas_follow_what_was_written(schedule):
    """Half of the block is filled in its first step: the rest of the quotas spread over less."""
    plain = run(rule=commit.fixed_quota(24, schedule=schedule), early_stop=False)

    def fill(step):
        for q in step.live:
            begin = q.current[0]
            if q.step == 0:
                step.canvas.tokens[q.row, begin : begin + WIDTH // 2] = 9
        step.settle()
        for q in step.live:
            begin, end = q.current
            assert q.masks == int((step.canvas.tokens[q.row, begin:end] == MASK_ID).sum())

    out = run(rule=commit.fixed_quota(24, schedule=schedule), early_stop=False, on_step=fill)
    for row, length in enumerate(out.canvas.lengths):
        answer = out.canvas.tokens[row, length - NEW : length]
        assert (answer.view(3, WIDTH)[:, : WIDTH // 2] == 9).all() and MASK_ID not in answer
    steps = [len(q.forwards) for q in out.sequences]
    assert max(steps) <= min(len(q.forwards) for q in plain.sequences)


def test_settling_does_not_hide_nan():
    def spoil(live, targets, logits, canvas):
        return logits.fill_(float("nan"))

    with pytest.raises(NaNLogitsError, match="row 0, block 0, forward 0"):
        run(process_logits=spoil, on_step=lambda step: step.settle())


def test_a_true_answer_to_a_finished_block_ends_its_row():
    out = run(on_block=lambda row, tokens: row == 1, early_stop=False)
    assert out.reasons == ["length", "criteria"]
    assert set(out.sequences[0].forwards) == {0, 1, 2} and set(out.sequences[1].forwards) == {0}
    assert (out.canvas.tokens[1, 5 + WIDTH : 29] == MASK_ID).all()


def test_what_a_hook_raises_reaches_the_caller():
    def fail(*_):
        raise KeyError("mine")

    for name in ("process_logits", "on_step", "on_block"):
        with pytest.raises(KeyError, match="mine"):
            run(**{name: fail})


def test_a_status_that_does_not_change_is_an_error(monkeypatch):
    monkeypatch.setattr(Canvas, "read_status", lambda self: [0] * self.rows)
    with pytest.raises(RuntimeError, match="row 0, block 0: not done after 9 steps"):
        run()
    with pytest.raises(RuntimeError, match="not done after 21 steps"):
        run(rule=commit.fixed_quota(36))
