"""What a caller can do in a step: edit the logits, see what was decided, write to the canvas."""

import pytest
import torch

from dpad.decode import commit
from dpad.decode.canvas import Canvas
from dpad.decode.decoder import NaNLogitsError
from dpad.decode.loop import decode
from dpad.decode.workspace import Workspace
from tests.decode.common import EOS_ID, MASK_ID, VOCAB, adapter, sequences

PROMPTS = ([1, 2, 3], [4, 5, 6, 7, 8])
NEW, WIDTH = 24, 8


def run(model=None, prompts=PROMPTS, **options):
    """The sequences, decoded, and what it took."""
    live = sequences(prompts, NEW, WIDTH, **options)
    return live, decode(model or adapter(), Workspace(), live)


def answers(live):
    return [q.result.tokens[q.prompt_length :] for q in live]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_hooks_that_look_change_nothing_and_cost_no_read(cache, monkeypatch):
    reads = []
    read = Canvas.read_status
    monkeypatch.setattr(Canvas, "read_status", lambda self: reads.append(1) or read(self))
    plain, took = run(cache=cache)
    passes, logits_rows, numbers, committed = len(reads), [], [], 0
    assert passes == took.steps == took.passes
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

    seen, _ = run(cache=cache, process_logits=process, on_step=look)
    assert all(map(torch.equal, answers(seen), answers(plain)))
    assert len(reads) == passes == len(numbers) == len(logits_rows)
    assert numbers == list(range(passes))
    assert committed == sum(int((q.result.committed_at >= 0).sum()) for q in plain)


def test_edited_logits_decide():
    def only_seven(live, targets, logits, canvas):
        logits[:, 7] += 1000
        return logits

    out, took = run(process_logits=only_seven)
    assert all((answer == 7).all() for answer in answers(out))
    assert took.steps == NEW // WIDTH


def test_a_position_that_is_masked_again_is_decided_again():
    (plain, _), done = run(), []

    def mask_once(step):
        if not done:
            done.append(step.number)
            step.canvas.tokens[step.live[0].row, 3 : 3 + WIDTH] = MASK_ID
            step.settle()

    out, _ = run(on_step=mask_once)
    assert all(map(torch.equal, answers(out), answers(plain)))
    assert len(out[0].forwards) == len(plain[0].forwards) + 1
    assert out[1].forwards == plain[1].forwards
    assert (out[0].result.committed_at[3 : 3 + WIDTH] >= 1).all()
    for q in out:
        assert int(q.result.committed_at.max()) == len(q.forwards) - 1


def test_positions_that_are_filled_finish_the_block():
    def fill(step):
        for q in step.live:
            begin, end = q.current
            free = step.canvas.tokens[q.row, begin:end] == MASK_ID
            step.canvas.tokens[q.row, begin:end][free] = 9
        step.settle()

    out, _ = run(on_step=fill, early_stop=False)
    assert [q.forwards for q in out] == [[0, 1, 2]] * 2
    tokens, committed_at, committed = (t[3:] for t in out[0].result)
    assert committed_at.tolist() == [0] * WIDTH + [1] * WIDTH + [2] * WIDTH
    filled = tokens == 9
    assert filled.any() and (committed[filled] == 1).any()


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

    out, _ = run(process_logits=say, on_step=write)
    assert [q.reason for q in out] == [reason] * 2
    blocks = [0] if reason == "stop" else [0, 1, 2]
    assert [q.forwards for q in out] == [blocks] * 2
    if reason == "length":  # the tail that the first commit had filled was decoded after all
        assert all((answer == 5).all() for answer in answers(out))


@pytest.mark.parametrize("schedule", ["linear", "dream"])
def test_quotas_follow_what_was_written(schedule):
    """Half of the block is filled in its first step: the rest of the quotas spread over less."""
    plain, _ = run(rule=commit.fixed_quota(24, schedule=schedule), early_stop=False)

    def fill(step):
        for q in step.live:
            begin = q.current[0]
            if q.step == 0:
                step.canvas.tokens[q.row, begin : begin + WIDTH // 2] = 9
        step.settle()
        for q in step.live:
            begin, end = q.current
            assert q.masks == int((step.canvas.tokens[q.row, begin:end] == MASK_ID).sum())

    out, _ = run(rule=commit.fixed_quota(24, schedule=schedule), early_stop=False, on_step=fill)
    for answer in answers(out):
        assert (answer.view(3, WIDTH)[:, : WIDTH // 2] == 9).all() and MASK_ID not in answer
    assert max(len(q.forwards) for q in out) <= min(len(q.forwards) for q in plain)


def test_settling_does_not_hide_nan():
    def spoil(live, targets, logits, canvas):
        return logits.fill_(float("nan"))

    with pytest.raises(NaNLogitsError, match="row 0, block 0, forward 0"):
        run(process_logits=spoil, on_step=lambda step: step.settle())


def test_a_true_answer_to_a_finished_block_ends_its_row():
    out, _ = run(on_block=lambda q, tokens: q.number == 1, early_stop=False)
    assert [q.reason for q in out] == ["length", "criteria"]
    assert set(out[0].forwards) == {0, 1, 2} and set(out[1].forwards) == {0}
    assert (answers(out)[1][WIDTH:] == MASK_ID).all()


def test_what_a_hook_raises_reaches_the_caller():
    def fail(*_):
        raise KeyError("mine")

    for name in ("process_logits", "on_step", "on_block"):
        with pytest.raises(KeyError, match="mine"):
            run(**{name: fail})


def test_a_status_that_does_not_change_is_an_error(monkeypatch):
    monkeypatch.setattr(Canvas, "read_status", lambda self: [[0] * self.tokens.shape[0]] * 2)
    with pytest.raises(RuntimeError, match="row 0, block 0: not done after 9 steps"):
        run()
    with pytest.raises(RuntimeError, match="not done after 21 steps"):
        run(rule=commit.fixed_quota(36))
