"""A request's tokens and forwards are those of `generate` alone, whatever runs beside it."""

import pytest
import torch

import dpad
from dpad.decode import graphs
from dpad.decode.decoder import Decoder
from dpad.decode.sequence import Sequence
from tests.decode.common import tiny
from tests.doubles.recorded_calls import RecordedCalls
from tests.engine import traffic
from tests.generation import random_calls

MODELS = {"llada": tiny, "grouped": lambda: tiny(heads=2, kv_heads=1), "dream": random_calls.dream}


@pytest.fixture(scope="module")
def made():
    """Model and calls by name, made once."""
    return {
        name: (model := make(), traffic.calls(model, 30, seed=7, longest=120))
        for name, make in MODELS.items()
    }


@pytest.mark.parametrize("rows", [1, 4, 16])
@pytest.mark.parametrize("name", MODELS)
def test_as_alone(made, name, rows):
    model, calls = made[name]
    with dpad.Engine(model, max_sequences=rows, max_tokens=2048) as engine:
        requests = traffic.run(engine, calls, seed=rows)
        traffic.assert_as_alone(requests, calls)
        stats = engine.stats()
        assert stats["kv_slots"] == stats["running"] == stats["waiting"] == 0


@pytest.fixture
def poisoned(monkeypatch):
    """Freed ranges hold NaN, freed rows random ids: nobody may look at them."""
    monkeypatch.setattr(Decoder, "retire", traffic.poisoning(Decoder.retire))


@pytest.mark.parametrize("name", MODELS)
def test_what_others_left_is_not_seen(made, poisoned, name):
    model, calls = made[name]
    with dpad.Engine(model, max_sequences=4, max_tokens=400) as engine:
        traffic.assert_as_alone(traffic.run(engine, calls, seed=1), calls)


@pytest.mark.parametrize("name", MODELS)
def test_replayed_steps_of_those_that_come_and_go(made, poisoned, monkeypatch, name):
    """Refreshes that look back join the graphs of others' cached steps."""
    monkeypatch.setitem(graphs.CAPTURES, "cpu", RecordedCalls)
    model, calls = made[name]
    with dpad.Engine(model, max_sequences=4, max_tokens=400) as engine:
        requests = traffic.run(engine, calls, seed=4, cancel=0.1)
        traffic.assert_as_alone(requests, calls)
        assert engine.stats()["replayed"] > 0
    recent = [call.options.get("refresh") == "recent" for call in calls]
    assert any(recent) and not all(recent)


def test_a_refresh_that_is_replayed_is_not_spread(monkeypatch):
    """Every sequence takes one forward per step, those with many rows too."""
    monkeypatch.setitem(graphs.CAPTURES, "cpu", RecordedCalls)
    options = {"max_new_tokens": 200, "block_length": 4, "cache": "dual", "refresh": "recent"}
    options |= {"suffix": "all", "early_stop": False}
    with dpad.Engine(tiny(), max_sequences=2, max_tokens=1000) as engine:
        requests = [engine.submit([7], seed=1, steps=n, **options) for n in (100, 150)]
        while engine.step():
            for request in requests:
                if request.status == "decoding":
                    assert len(request.sequence.forwards) == engine.steps
        assert engine.stats()["replayed"] == engine.steps - 1


@pytest.mark.parametrize("name", MODELS)
def test_cancelled_requests_disturb_nobody(made, poisoned, name):
    model, calls = made[name]
    with dpad.Engine(model, max_sequences=6, max_tokens=1024) as engine:
        requests = traffic.run(engine, calls, seed=2, cancel=0.3)
        assert {r.status for r in requests} == {"finished", "cancelled"}
        traffic.assert_as_alone(requests, calls)
        assert engine.stats()["kv_slots"] == 0


def test_a_layout_of_another_request_would_be_noticed(made, monkeypatch):
    """These tests can fail: without a request's identity a plan is handed on with the row."""
    monkeypatch.setattr(Sequence, "plan_key", property(lambda q: (q.row, q.block, q.refresh)))
    model, calls = made["llada"]
    with dpad.Engine(model, max_sequences=2, max_tokens=2048) as engine:
        requests = traffic.run(engine, calls, seed=3)
        wrong = 0
        for request, call in zip(requests, calls, strict=True):
            try:
                wrong += not torch.equal(request.result().sequences, call.alone.sequences)
            except Exception:
                wrong += 1
        assert wrong > 0


def test_batch_invariant_is_bitwise(made):
    model, _ = made["llada"]
    options = {"batch_invariant": True, "max_new_tokens": 24, "temperature": 0.7, "seed": 3}
    alone = dpad.generate(model, [[1, 2, 3]], trace=True, **options)
    with dpad.Engine(model, max_sequences=8) as engine:
        beside = [engine.submit([5] * n, max_new_tokens=20, seed=1) for n in range(1, 7)]
        out = engine.submit([1, 2, 3], trace=True, **options).result()
        assert len(beside) == 6
    strip = lambda trace: [{**e, "time": 0} for e in trace.events]  # noqa: E731
    assert strip(out.trace) == strip(alone.trace)  # confidences too, bit for bit
