"""Callers that wait in other ways: within a step, in an event loop, or not to the end of a map."""

import asyncio

import numpy as np
import pytest
import torch

import dpad
from dpad.engine import Block, EngineClosed, RequestCancelled
from tests.decode.common import tiny

OPTIONS = {"max_new_tokens": 24, "block_length": 8, "seed": 1, "early_stop": False}
SLOW = {**OPTIONS, "steps": 24}
SECONDS = 60  # a hang is a failure


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture
def engine(model):
    with dpad.Engine(model, max_sequences=2, max_tokens=128, queue=2) as engine:
        yield engine


def test_whoever_awaits_takes_the_steps(model, engine):
    alone = dpad.generate(model, [[1, 2, 3]], **OPTIONS)

    async def both():
        streamed = engine.submit([1, 2, 3], stream="blocks", **OPTIONS)
        awaited = engine.submit([1, 2, 3], **OPTIONS)
        blocks = [e.tokens async for e in streamed if isinstance(e, Block)]
        return torch.cat(blocks), (await awaited).sequences

    blocks, whole = asyncio.run(asyncio.wait_for(both(), SECONDS))
    assert torch.equal(blocks, alone[0, 3:]) and torch.equal(whole, alone)


def test_a_cancelled_await_leaves_the_request(model, engine):
    alone = dpad.generate(model, [[1, 2, 3]], **SLOW)
    request = engine.submit([1, 2, 3], **SLOW)

    async def give_up():
        task = asyncio.ensure_future(request)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(give_up(), SECONDS))
    assert request.status != "cancelled"
    assert torch.equal(request.result(SECONDS).sequences, alone)


@pytest.mark.parametrize("thread", [False, True])
def test_an_event_loop_that_is_gone_harms_nobody(model, engine, thread):
    alone = dpad.generate(model, [[1, 2, 3]], **SLOW)
    request = engine.submit([1, 2, 3], stream="blocks", **SLOW)
    left = asyncio.new_event_loop()
    request._listeners.append((left, asyncio.Event()))  # as one that was never resumed
    left.close()
    if thread:
        engine.start()
    assert torch.equal(request.result(SECONDS).sequences, alone)
    assert not engine.broken


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("call", ["step", "drain", "close", "result", "events"])
def test_code_within_a_step_cannot_wait_for_it(model, engine, call, thread):
    other = engine.submit([5], **OPTIONS)
    calls = {
        "step": engine.step,
        "drain": engine.drain,
        "close": engine.close,
        "result": lambda: other.result(SECONDS),
        "events": lambda: list(other),
    }

    def back(*_):
        calls[call]()

    request = engine.submit([1, 2], callback_on_step_end=back, **OPTIONS)
    if thread:
        engine.start()
    named = {"result": "request 1", "events": "request 1"}.get(call, call)
    with pytest.raises(RuntimeError, match=f"{named}.* within a step"):
        request.result(SECONDS)
    assert torch.equal(other.result(SECONDS).sequences, dpad.generate(model, [[5]], **OPTIONS))
    assert engine.accepts and engine.stats()["kv_slots"] == 0


def test_code_within_a_step_may_submit_cancel_and_generate(model, engine):
    alone = dpad.generate(model, [[1, 2, 3]], **OPTIONS)
    seen = []

    def back(*_):
        if not seen:
            seen.append(dpad.generate(model, [[1, 2, 3]], **OPTIONS))
            seen.append(engine.submit([1, 2, 3], **OPTIONS))
            request.cancel()

    request = engine.submit([4], callback_on_step_end=back, **SLOW)
    with pytest.raises(RequestCancelled):
        request.result(SECONDS)
    assert torch.equal(seen[0], alone) and torch.equal(seen[1].result(SECONDS).sequences, alone)


@pytest.mark.parametrize("thread", [False, True])
def test_map_waits_behind_the_requests_of_others(model, engine, thread):
    others = [engine.submit([n], **OPTIONS) for n in (7, 8)]
    assert engine.full
    if thread:
        engine.start()
    outs = list(engine.map([[1], [2], [3]], **OPTIONS))
    for key, (out, prompt) in enumerate(zip(outs, ([1], [2], [3]), strict=True)):
        alone = dpad.generate(model, [prompt], row_keys=[key], **OPTIONS)
        assert torch.equal(out.sequences, alone)
    assert all(r.result(SECONDS).sequences.shape == (1, 25) for r in others)


def test_a_map_that_is_not_finished_leaves_no_requests(model):
    engine = dpad.Engine(model, max_sequences=2, max_tokens=128)

    def prompts():
        yield from ([1], [2], [3])
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(engine.map(prompts(), **OPTIONS))
    engine.step()
    assert engine.stats()["cancelled"] == 3
    begun = engine.map([[n] for n in range(9)], **OPTIONS)
    next(begun)
    begun.close()
    engine.step()
    stats = engine.stats()
    assert stats["running"] == stats["waiting"] == stats["kv_slots"] == 0
    assert stats["submitted"] < 3 + 9
    engine.close()
    with pytest.raises(EngineClosed):
        list(engine.map([[1]], **OPTIONS))


def test_map_takes_prompts_as_submit_does(model, engine):
    ids = torch.tensor([[1, 2, 3]])
    prompts = [[1, 2, 3], ids, ids[0].numpy(), {"input_ids": ids, "attention_mask": ids > 0}]
    for key, out in enumerate(engine.map(prompts, **OPTIONS)):
        alone = dpad.generate(model, ids, row_keys=[key], **OPTIONS)
        assert torch.equal(out.sequences, alone)


def test_numbers_of_a_request(model, engine):
    for value in (np.float32(60.0), torch.tensor(60), np.int64(60), float("inf")):
        request = engine.submit([1], timeout=value, priority=value, **OPTIONS)
        assert request.result(value).sequences.shape == (1, 25)
    for value in ("1", True, float("nan"), [1], torch.ones(1), 10**400):
        for name in ("timeout", "priority"):
            with pytest.raises(ValueError, match=f"{name} = .*expected a number"):
                engine.submit([1], **{name: value}, **OPTIONS)
        request = engine.submit([1], **OPTIONS)
        for wait in (request.result, engine.drain):
            with pytest.raises(ValueError, match=r"timeout = .*expected a number"):
                wait(value)
        request.result()
    assert engine.accepts


def test_what_is_no_request_is_named(model, engine):
    with pytest.raises(TypeError, match="on_step is a int"):
        dpad.Engine(model, on_step=5)
    with pytest.raises(ValueError, match="ids = None"):
        engine.submit(None, **OPTIONS)
    for prompts in (5, None, "text"):
        with pytest.raises(TypeError, match="prompts = "):
            engine.map(prompts, **OPTIONS)
    with pytest.raises(TypeError, match="progress = 'no'"):
        engine.map([[1]], progress="no", **OPTIONS)


def test_what_no_engine_has_room_for(model):
    with pytest.raises(ValueError, match="max_sequences = 1099511627776: expected"):
        dpad.Engine(model, max_sequences=2**40)
    engine = dpad.Engine(model, max_tokens=2**40)
    with pytest.raises(MemoryError, match=r"1099511627776 slots .* max_tokens"):
        engine.submit([1], **OPTIONS).result()
