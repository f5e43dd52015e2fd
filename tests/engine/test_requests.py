"""Requests: events, results, cancelling, time, errors of one's own, and what is refused."""

import asyncio
import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import dpad
from dpad.decode.decoder import NaNLogitsError
from dpad.engine import Block, Draft, End, EngineClosed, QueueFull, RequestCancelled
from tests.decode.common import EOS_ID, MASK_ID, tiny

OPTIONS = {"max_new_tokens": 24, "block_length": 8, "seed": 1, "early_stop": False}


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture
def engine(model):
    with dpad.Engine(model, max_sequences=4, max_tokens=256, queue=8) as engine:
        yield engine


def test_blocks_then_the_end(model, engine):
    alone = dpad.generate(model, [[1, 2, 3]], **OPTIONS)
    *blocks, end = engine.submit([1, 2, 3], stream="blocks", **OPTIONS)
    assert all(isinstance(b, Block) for b in blocks) and len(blocks) == 3
    assert torch.equal(torch.cat([b.tokens for b in blocks]), alone[0, 3:])
    assert isinstance(end, End) and end.reason == "length"
    assert end.usage.prompt_tokens == 3 and 0 < end.usage.completion_tokens <= 24
    timings = end.timings
    assert 0 <= timings.queued <= timings.first_block <= timings.total


def test_drafts_become_the_block(engine):
    request = engine.submit([1, 2, 3], stream="drafts", **OPTIONS)
    events, draft, before = list(request), None, None
    drafts = [e for e in events if isinstance(e, Draft)]
    assert len(drafts) == request.result().forwards.item()
    for event in events:
        if isinstance(event, Draft):
            draft = event
            assert MASK_ID not in draft.tokens and draft.confidence.shape == draft.tokens.shape
            assert before is None or not (draft.open & ~before).any()  # what is firm stays so
            before = draft.open
        elif isinstance(event, Block):
            assert torch.equal(event.tokens, draft.tokens)
            assert not draft.open.any()
            before = None


def test_only_the_end_without_a_stream(engine):
    assert [type(e) for e in engine.submit([1, 2], **OPTIONS)] == [End]


def test_text_ends_with_its_end_id(engine):
    say = lambda ids, scores: scores.index_fill(1, torch.tensor([EOS_ID]), 1e4)  # noqa: E731
    processor = lambda ids, scores: say(ids, scores) if ids.shape[1] >= 5 else scores  # noqa: E731
    options = {**OPTIONS, "early_stop": True, "steps": 24, "logits_processor": [processor]}
    *blocks, end = engine.submit([1, 2, 3], stream="blocks", **options)
    assert end.reason == "stop" and len(blocks) == 1
    tokens = blocks[0].tokens.tolist()
    assert tokens.count(EOS_ID) == 1 and tokens[-1] == EOS_ID
    assert end.usage.completion_tokens == len(tokens) - 1


def test_a_criterion_ends_its_request_alone(model, engine):
    third = lambda ids, _: torch.tensor([ids.shape[1] >= 6])  # noqa: E731
    request = engine.submit([1, 2, 3], stopping_criteria=[third], stream="blocks", **OPTIONS)
    other = engine.submit([4, 5], **OPTIONS)
    *blocks, end = request
    assert end.reason == "criteria" and end.usage.completion_tokens <= 3
    assert sum(len(b.tokens) for b in blocks) == 3
    assert torch.equal(other.result().sequences, dpad.generate(model, [[4, 5]], **OPTIONS))


@pytest.mark.parametrize("where", ["logits_processor", "callback", "criteria", "noise", "kept"])
def test_ones_own_error_ends_ones_own_request(model, engine, where):
    def fail(*_):
        raise KeyError("mine")

    own = {
        "logits_processor": {"logits_processor": [fail]},
        "callback": {"callback_on_step_end": fail},
        "criteria": {"stopping_criteria": [fail]},
        "noise": {"noise": fail, "temperature": 1.0},
        "kept": {"kept_suffix": fail},
    }[where]
    good = [engine.submit([1, 2], **OPTIONS), engine.submit([7], **OPTIONS)]
    bad = engine.submit([3], **OPTIONS, **own)
    with pytest.raises(KeyError, match="mine"):
        bad.result()
    assert bad.status == "failed" and list(bad)[-1].reason == "error"
    for request, prompt in zip(good, ([1, 2], [7]), strict=True):
        assert torch.equal(request.result().sequences, dpad.generate(model, [prompt], **OPTIONS))
    assert engine.stats()["kv_slots"] == 0 and engine.stats()["failed"] == 1


def test_nan_logits_end_their_request_alone(model, engine):
    spoil = lambda ids, scores: scores.fill_(float("nan"))  # noqa: E731
    bad = engine.submit([3], logits_processor=[spoil], **OPTIONS)
    good = engine.submit([1, 2], **OPTIONS)
    with pytest.raises(NaNLogitsError, match="block 0, forward 0"):
        bad.result()
    assert torch.equal(good.result().sequences, dpad.generate(model, [[1, 2]], **OPTIONS))


def test_cancelled_and_late_requests_leave_within_a_step(engine):
    slow = {**OPTIONS, "steps": 24}
    cancelled, late = engine.submit([1], **slow), engine.submit([2], timeout=0.0, **slow)
    engine.step()
    assert late.status == "failed" and cancelled.status == "decoding"
    cancelled.cancel()
    engine.step()
    assert cancelled.status == "cancelled" and engine.stats()["kv_slots"] == 0
    for request, error, reason in ((cancelled, RequestCancelled, "cancelled"),
                                   (late, TimeoutError, "timeout")):  # fmt: skip
        with pytest.raises(error):
            request.result()
        assert list(request)[-1].reason == reason
    cancelled.cancel()  # once more changes nothing
    assert engine.step() is False


def test_what_can_never_fit_is_refused_with_the_numbers(engine):
    with pytest.raises(ValueError, match="1 .* 300 = 301 positions, the model has 256"):
        engine.submit([1], max_new_tokens=300)
    small = dpad.Engine(engine.model, max_length=20)
    with pytest.raises(ValueError, match="1 .* 20 = 21 positions .* max_length = 20"):
        small.submit([1], max_new_tokens=20)
    with pytest.raises(ValueError, match="2 streams: .* max_tokens = 256"):
        engine.submit([1], max_new_tokens=200, cfg_scale=1.0)
    with pytest.raises(ValueError, match="rows"):
        engine.submit([[1], [2]])
    with pytest.raises(TypeError, match="nonsense"):
        engine.submit([1], nonsense=3)
    for name in ("micro_batch", "num_return_sequences", "row_keys"):
        with pytest.raises(ValueError, match=name):
            engine.submit([1], **{name: 2})
    assert engine.stats()["submitted"] == 0


def test_a_full_queue_refuses_at_once(engine):
    for _ in range(8):
        engine.submit([1], **OPTIONS)
    with pytest.raises(QueueFull, match="queue = 8"):
        engine.submit([1], **OPTIONS)
    engine.step()
    assert engine.stats()["running"] == 4 and engine.stats()["refused"] == 1
    engine.submit([1], **OPTIONS)


def test_admission_waits_for_room_and_is_not_overtaken(engine):
    """Each takes 150 of 256 slots: the second waits, and so does the small one behind it."""
    long = {**OPTIONS, "max_new_tokens": 149}
    first, second = engine.submit([1], **long), engine.submit([1], **long)
    small = engine.submit([1], **OPTIONS)
    engine.step()
    assert [r.status for r in (first, second, small)] == ["decoding", "pending", "pending"]
    assert small.result().sequences.shape == (1, 25)
    assert second.status == "decoding"


def test_nobody_who_submits_waits_for_a_step(engine):
    """Whoever takes a step holds its lock for as long as a forward takes."""
    with ThreadPoolExecutor(1) as pool, engine._lock:
        request = pool.submit(engine.submit, [1], **OPTIONS).result(timeout=10)
        assert engine.stats()["waiting"] == 1
    assert request.result().sequences.shape == (1, 25)


def test_every_step_is_told(model):
    seen = []
    engine = dpad.Engine(
        model, max_sequences=4, max_tokens=256, on_step=lambda *told: seen.append(told)
    )
    with engine:
        [engine.submit([n], **OPTIONS) for n in range(3)]
        while engine.step():
            pass
        stats = engine.stats()
    assert len(seen) == stats["steps"] and seen[0][1] == 3
    assert sum(positions for _, _, positions in seen) == stats["positions"] > 0
    assert all(seconds > 0 for seconds, _, _ in seen)


def test_priority_ages(model):
    with dpad.Engine(model, max_sequences=1, max_tokens=64, queue=2000) as engine:
        order, done = [], {}
        old = engine.submit([1], priority=0, **OPTIONS)
        for number in range(40):  # a stream of more urgent ones
            done[number] = engine.submit([2], priority=1, **OPTIONS)
            engine.step()
            engine.step()
        while engine.step():
            order.append(old.status)
        urgent = [r for r in done.values() if r.sequence.times]
        assert old.status == "finished" and len(urgent) == 40
        assert old.admitted < max(r.admitted for r in done.values())


def test_threads_and_asyncio(model):
    alone = {n: dpad.generate(model, [[n]], **OPTIONS) for n in range(12)}
    with dpad.Engine(model, max_sequences=4, max_tokens=256).start() as engine:
        found = {}

        def ask(n):
            found[n] = engine.submit([n], **OPTIONS).result(timeout=60).sequences

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
        [t.start() for t in threads]

        async def client(n):
            request = engine.submit([n], stream="blocks", **OPTIONS)
            blocks = [e.tokens async for e in request if isinstance(e, Block)]
            return torch.cat(blocks), (await request).sequences

        async def everybody():
            return await asyncio.gather(*(client(n) for n in range(6, 12)))

        answers = asyncio.run(everybody())
        [t.join() for t in threads]
    for n, (blocks, whole) in enumerate(answers, 6):
        assert torch.equal(whole, alone[n]) and torch.equal(blocks, alone[n][0, 1:])
    assert all(torch.equal(found[n], alone[n]) for n in range(6))


def test_map_keeps_the_order_and_the_keys(model):
    prompts = [[n % 50] * (1 + n % 5) for n in range(30)]
    options = {**OPTIONS, "temperature": 0.8}
    with dpad.Engine(model, max_sequences=4, max_tokens=256, queue=3) as engine:
        for key, (prompt, out) in enumerate(
            zip(prompts, engine.map(iter(prompts), **options), strict=True)
        ):
            alone = dpad.generate(model, [prompt], row_keys=[key], **options)
            assert torch.equal(out.sequences, alone)
        again = {"ids": [1, 2], "row_key": 5, "max_new_tokens": 8, "block_length": 8}
        (out,) = engine.map([again], seed=3)
        assert out.sequences.shape == (1, 10) and out.seed == 3


def test_drained_and_closed(model):
    engine = dpad.Engine(model, max_sequences=2, max_tokens=128)
    requests = [engine.submit([n], **OPTIONS) for n in range(5)]
    assert engine.drain(timeout=0.0) is False
    assert engine.drain(timeout=60) and all(r.status == "finished" for r in requests)
    with pytest.raises(EngineClosed):
        engine.submit([1], **OPTIONS)
    engine.close()
    engine.close()
    other = dpad.Engine(model, max_sequences=2, max_tokens=128).start()
    late = other.submit([1], **{**OPTIONS, "max_new_tokens": 100, "steps": 100})
    other.close()
    with pytest.raises(RequestCancelled):
        late.result()
    assert not other.running


def test_an_engine_that_breaks_leaves_nobody_waiting(model, monkeypatch):
    engine = dpad.Engine(model, max_sequences=2, max_tokens=128)
    requests = [engine.submit([n], **OPTIONS) for n in range(4)]

    def broken(self):
        raise MemoryError("no more")

    monkeypatch.setattr("dpad.decode.decoder.Decoder.step", broken)
    engine.start()
    for request in requests:
        with pytest.raises(MemoryError, match="no more"):
            request.result(timeout=30)
    with pytest.raises(EngineClosed):
        engine.submit([1], **OPTIONS)


def test_capacity_allocates_nothing(model):
    engine = dpad.Engine(model, max_sequences=2, max_tokens=1 << 14)
    capacity = engine.capacity()
    assert engine.stats()["kv_slots"] == 0 and engine._scheduler.workspace.arena.bytes == 0
    assert capacity.slot_bytes == 2 * 2 * 2 * 8 * 4  # K and V, layers, heads, head_dim, float32
    assert capacity.kv_bytes == capacity.slot_bytes << 14
    engine.submit([1], **OPTIONS).result()
    assert engine._scheduler.workspace.arena.bytes == capacity.kv_bytes
    assert capacity.pass_bytes > 0 and capacity.fits()
    assert capacity.max_tokens > 1 << 14


def test_the_thread_sleeps_when_there_is_nothing_to_do(model):
    with dpad.Engine(model).start() as engine:
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.25
        assert engine.submit([1], **OPTIONS).result(timeout=30).sequences.shape == (1, 25)


@pytest.mark.parametrize("name", ["max_sequences", "max_tokens", "queue", "max_length"])
def test_sizes_are_checked(model, name):
    for value in (0, -1, 1.5, True, "many"):
        with pytest.raises(ValueError, match=name):
            dpad.Engine(model, **{name: value})


def _with_a_new_block():
    """A model, and a function that replaces one of its blocks by another."""
    model = tiny()
    blocks = model.model.transformer.blocks
    other = copy.deepcopy(blocks[1])
    for weight in other.parameters():
        weight.data.neg_()

    def replace():
        blocks[1] = other

    return model, replace


def test_a_replaced_block_is_noticed():
    model, replace = _with_a_new_block()
    with dpad.Engine(model, max_sequences=2, max_tokens=256) as engine:
        before = engine.submit([1, 2, 3], **OPTIONS).result().sequences
        replace()
        after = engine.submit([1, 2, 3], **OPTIONS).result().sequences
    assert torch.equal(after, dpad.generate(model, [[1, 2, 3]], **OPTIONS))
    assert not torch.equal(before, after)


def test_a_model_that_changes_first_ends_what_runs():
    model, replace = _with_a_new_block()
    with dpad.Engine(model, max_sequences=2, max_tokens=256) as engine:
        first = engine.submit([1, 2, 3], **OPTIONS)
        engine.step()
        replace()
        second = engine.submit([1, 2, 3], **OPTIONS)
        engine.step()
        assert (first.status, second.status) == ("decoding", "pending")
        assert torch.equal(second.result().sequences, dpad.generate(model, [[1, 2, 3]], **OPTIONS))
        assert first.status == "finished"


def test_hooks_that_would_not_run_are_refused_by_name():
    model = tiny()
    block = model.model.transformer.blocks[1]
    with dpad.Engine(model, max_sequences=2, max_tokens=256) as engine:
        request = engine.submit([1, 2, 3], **OPTIONS)
        block.forward = lambda *args, **kwargs: None
        with pytest.raises(dpad.UnsupportedModelError, match="blocks.1"):
            request.result()
        with pytest.raises(dpad.UnsupportedModelError, match="blocks.1"):
            engine.submit([1, 2, 3], **OPTIONS)
        del block.forward
        assert torch.equal(
            engine.submit([1, 2, 3], **OPTIONS).result().sequences,
            dpad.generate(model, [[1, 2, 3]], **OPTIONS),
        )


def test_hooks_on_the_model_itself_are_refused_by_name():
    model = tiny()
    with dpad.Engine(model, max_sequences=2, max_tokens=256) as engine:
        request = engine.submit([1, 2, 3], **OPTIONS)
        hook = model.register_forward_hook(lambda *_: None)
        with pytest.raises(dpad.UnsupportedModelError, match="hooks on the LLaDAModelLM itself"):
            request.result()
        with pytest.raises(dpad.UnsupportedModelError, match="hooks on the LLaDAModelLM itself"):
            engine.submit([1, 2, 3], **OPTIONS)
        hook.remove()
        engine.submit([1, 2, 3], **OPTIONS).result()


def test_a_trace_names_the_draws_of_its_request(model, engine):
    out = engine.submit([1, 2, 3], row_key=5, trace=True, **OPTIONS).result()
    alone = dpad.generate(model, [[1, 2, 3]], row_keys=[5], trace=True, **OPTIONS)
    assert out.trace.header == alone.trace.header


def test_map_merges_what_is_shared_and_what_is_a_prompts_own(model, engine):
    prompts = [[1, 2], {"ids": [3, 4], "temperature": 0.5, "seed": 4}, {"ids": [5], "seed": 2}]
    outs = list(engine.map(prompts, generation_config=None, **OPTIONS))
    own = [{}, {"temperature": 0.5, "seed": 4}, {"seed": 2}]
    for key, (out, prompt, mine) in enumerate(zip(outs, ([1, 2], [3, 4], [5]), own, strict=True)):
        alone = dpad.generate(model, [prompt], row_keys=[key], **{**OPTIONS, **mine})
        assert torch.equal(out.sequences, alone)
    with pytest.raises(TypeError, match="thresold"):
        list(engine.map([[1, 2]], thresold=0.5))
