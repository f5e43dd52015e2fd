"""`progress=True` counts every token of the answers once, and changes nothing."""

import pytest
import torch

import dpad
from tests.generation.common import EOS_ID, MASK_ID

tqdm_auto = pytest.importorskip("tqdm.auto")


@pytest.fixture
def bars(monkeypatch):
    """Every bar that was made, as [total, counted, times it was closed]."""
    made = []

    class Bar:
        def __init__(self, total, disable=False, **_):
            self.values = [total, 0, 0]
            if not disable:
                made.append(self.values)

        def update(self, count):
            assert count > 0
            self.values[1] += count

        def close(self):
            self.values[2] += 1

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: self.close()  # noqa: E731

    monkeypatch.setattr(tqdm_auto, "tqdm", Bar)
    monkeypatch.setattr("dpad.generation.likelihood.tqdm", Bar)
    return made


OPTIONS = {"max_new_tokens": 40, "block_length": 16, "confidence_threshold": 0.3, "seed": 0}


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_bar_ends_at_its_total(llada, prompts, bars, early_stop, micro_batch):
    rows = [[t for t in row if t != MASK_ID] for row in prompts]
    options = {**OPTIONS, "early_stop": early_stop, "micro_batch": micro_batch}
    if early_stop:  # the commonest token ends a row: most of them stop early
        plain = torch.stack([dpad.generate(llada, [r], **options)[0, -40:] for r in rows])
        options["eos_token_id"] = int(plain.flatten().mode().values)
    shown = [dpad.generate(llada, [row], progress=True, **options) for row in rows]
    assert bars == [[40, 40, 1]] * len(rows)
    for row, ids in zip(rows, shown, strict=True):
        assert torch.equal(ids, dpad.generate(llada, [row], **options))
    assert len(bars) == len(rows)  # none without being asked


def test_one_bar_for_a_batch(llada, ids, bars):
    dpad.generate(llada, ids, progress=True, micro_batch=1, **OPTIONS)
    assert bars == [[80, 80, 1]]


def test_an_error_closes_the_bar(llada, ids, bars):
    def fails(*_):
        raise RuntimeError("the caller's")

    with pytest.raises(RuntimeError, match="the caller's"):
        dpad.generate(llada, ids, progress=True, callback_on_step_end=fails, **OPTIONS)
    assert bars[0][2] == 1


def test_likelihoods_count_canvases(llada, bars):
    pairs = [([5, 6], [7, 8, 9]), ([5], [EOS_ID])]
    found = dpad.loglikelihood(llada, pairs, samples=6, micro_batch=4, progress=True)
    total = int(found.canvases.sum())
    assert bars == [[total, total, 1]]
    assert torch.equal(found.value, dpad.loglikelihood(llada, pairs, samples=6).value)


def test_other_values_are_refused(llada, ids):
    with pytest.raises(TypeError, match="progress = 1"):
        dpad.generate(llada, ids, progress=1, **OPTIONS)
    with pytest.raises(TypeError, match="progress = 'yes'"):
        dpad.loglikelihood(llada, [([5], [6])], progress="yes")


def test_a_loop_of_the_callers_gets_it_or_refuses(llada, ids):
    seen = {}

    def loop(model, input_ids, progress=False, **_):
        seen["progress"] = progress
        return input_ids

    dpad.generate(llada, ids, custom_generate=loop, progress=True)
    assert seen == {"progress": True}
    with pytest.raises(ValueError, match="progress"):
        dpad.generate(
            llada, ids, custom_generate=lambda model, input_ids, **_: input_ids, progress=True
        )
