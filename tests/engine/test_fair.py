"""A long canvas beside short ones: its passes are spread over steps, and all are as alone."""

import pytest
import torch

import dpad
from dpad.decode import passes
from tests.decode.common import tiny

SHORT = {"max_new_tokens": 24, "block_length": 8, "early_stop": False, "cache": "dual"}
LONG = {**SHORT, "max_new_tokens": 200, "suffix": dpad.Suffix("all"), "steps": 60}


@pytest.fixture(scope="module")
def model():
    return tiny(layers=4)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_long_passes_are_spread_and_exact(model, cache, monkeypatch):
    layers, run = [], passes.Pass.run

    def watched(work, credit=None):
        before = work.layers.done if work.layers else 0
        done = run(work, credit)
        if credit is not None:
            layers.append(work.layers.done - before)
        return done

    monkeypatch.setattr(passes.Pass, "run", watched)
    long = {**LONG, "cache": cache}
    alone = dpad.generate(model, [[1] * 40], return_dict_in_generate=True, seed=1, **long)
    with dpad.Engine(model, max_sequences=8, max_tokens=1000) as engine:
        first = engine.submit([1] * 40, seed=1, **long)
        short = [engine.submit([n], seed=2, **SHORT) for n in range(20)]
        out = first.result()
    assert torch.equal(out.sequences, alone.sequences)
    assert torch.equal(out.forwards, alone.forwards)
    for n, request in enumerate(short):
        expected = dpad.generate(model, [[n]], seed=2, return_dict_in_generate=True, **SHORT)
        assert torch.equal(request.result().sequences, expected.sequences)
        assert torch.equal(request.result().forwards, expected.forwards)
    assert 0 in layers and max(layers) < 4  # several steps for a pass


def test_short_ones_take_a_forward_in_every_step(model):
    with dpad.Engine(model, max_sequences=8, max_tokens=1000) as engine:
        engine.submit([1] * 40, seed=1, **LONG)
        short = [engine.submit([n], seed=2, **SHORT) for n in range(5)]
        begun = engine.steps
        while any(r.status != "finished" for r in short):
            engine.step()
            for request in short:
                if request.status == "decoding":
                    assert len(request.sequence.forwards) == engine.steps - begun


def test_nobody_starves(model):
    """A long one ends while short ones never stop coming."""
    with dpad.Engine(model, max_sequences=4, max_tokens=1000, queue=4) as engine:
        long = engine.submit([1] * 40, seed=1, **{**LONG, "cache": "none", "steps": 25})
        for step in range(4000):
            if engine.stats()["waiting"] < 3:
                engine.submit([step % 50], seed=2, **SHORT)
            engine.step()
            if long.status == "finished":
                break
        assert long.status == "finished"


def test_a_long_pass_may_be_cancelled_in_its_midst(model):
    with dpad.Engine(model, max_sequences=8, max_tokens=1000) as engine:
        long = engine.submit([1] * 40, seed=1, **{**LONG, "cache": "none"})
        short = [engine.submit([n], seed=2, **SHORT) for n in range(5)]
        engine.step()
        assert engine._scheduler.decoder.runner.begun
        long.cancel()
        engine.step()
        assert not engine._scheduler.decoder.runner.begun
        for n, request in enumerate(short):
            expected = dpad.generate(model, [[n]], seed=2, **SHORT)
            assert torch.equal(request.result().sequences, expected)
