"""Answers that grow: identities, combinations, limits and refusals."""

import pytest
import torch

import dpad
from dpad.decode import graphs
from dpad.decode.daedal import Growth
from dpad.decode.plan import draw_suffix
from dpad.engine import Block
from tests.decode.common import EOS_ID, sequence
from tests.doubles.recorded_calls import RecordedCalls
from tests.generation.common import MASK_ID, pad
from tests.generation.test_block_decoding import load

# With the tiny models' flat predictions all of it happens: growth, expansion, cuts at the limit.
HOW = {"initial_length": 16, "expansion": 4, "window": 6, "low_confidence": 0.2}
OPTIONS = {
    "length": HOW,
    "max_new_tokens": 40,
    "block_length": 8,
    "confidence_threshold": 0.6,
    "early_stop": False,
    "mask_token_id": MASK_ID,
    "eos_token_id": 200,
    "pad_token_id": 300,
    "trace": True,
    "seed": 5,
}
THIN = dpad.Suffix("gaussian", window=12, decay=2.0, scale=1.2)
OFF = {"end_confidence": 0.0, "low_confidence": 0.0, "tail": False, "window": 6}


def generate(model, prompts, side="left", **changes):
    ids, mask = pad(prompts, side, 300)
    return dpad.generate(model, ids, attention_mask=mask, **{**OPTIONS, **changes})


def answers(out, prompts):
    width = max(map(len, prompts))
    return [row[width:].tolist() for row in out.sequences]


def growth(out, row=0):
    """The canvas's changes of a row."""
    return [e["canvas"] for e in out.trace.events if e["row"] == row and "canvas" in e]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("suffix", [dpad.Suffix("all"), THIN], ids=["all", "thin"])
def test_without_growth_it_is_plain_decoding(model, prompts, cache, suffix):
    """One pass more: the one that looks for an end before anything is decoded."""
    options = {"cache": cache, "max_new_tokens": 24}
    if suffix.kind != "all":  # the window that is looked at stays visible
        suffix = dpad.Suffix("gaussian", window=12, decay=2.0, scale=1.2, near=24)
    options["suffix"] = suffix
    plain = generate(model, prompts, length=None, **options)
    same = generate(model, prompts, length={**OFF, "initial_length": 24}, **options)
    assert torch.equal(same.sequences, plain.sequences)
    assert torch.equal(same.forwards, plain.forwards + 1)


COMBINED = {
    "plain": {},
    "prefix": {"cache": "prefix"},
    "dual": {"cache": "dual"},
    "recent": {"cache": "dual", "refresh": "recent"},
    "guided": {"cache": "dual", "cfg_scale": 0.5},
    "drawn": {"cache": "prefix", "temperature": 0.7, "top_p": 0.9},
    "factor": {"confidence_threshold": None, "factor": 1.0},
    "stable": {"confidence_threshold": None, "commit": dpad.rules.Klass(0.3, 0.1, 1)},
    "stops": {"early_stop": True, "cache": "dual"},
}


@pytest.mark.parametrize("suffix", [dpad.Suffix("all"), THIN], ids=["all", "thin"])
@pytest.mark.parametrize("name", COMBINED)
def test_alone_as_in_a_batch_as_in_an_engine(model, prompts, name, suffix):
    options = {"suffix": suffix, **COMBINED[name]}
    batch = generate(model, prompts, **options)
    assert torch.equal(generate(model, prompts, "right", **options).forwards, batch.forwards)
    grown = [len(growth(batch, row)) for row in range(len(prompts))]
    assert max(grown) > 2 and max(batch.forwards) <= 60
    given = {**OPTIONS, **options}
    with dpad.Engine(model, max_sequences=3, max_tokens=200, max_length=70) as engine:
        requests = [engine.submit(p, row_key=row, **given) for row, p in enumerate(prompts)]
        others = [engine.submit(p, max_new_tokens=16, mask_token_id=MASK_ID) for p in prompts]
        for row, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
            alone = generate(model, [prompt], row_keys=[row], **options)
            answer = answers(batch, prompts)[row]
            own = answers(alone, [prompt])[0]
            assert answer[: len(own)] == own and set(answer[len(own) :]) <= {300}
            assert batch.forwards[row] == alone.forwards[0]
            assert request.result().sequences.tolist() == alone.sequences.tolist()
            usage = list(request)[-1].usage
            assert usage.forwards == alone.forwards[0]
            assert usage.completion_tokens == (own + [200]).index(200)
            assert MASK_ID not in own and len(own) <= 40
        assert all(r.result() is not None for r in others)


def test_captured_steps_decide_the_same(monkeypatch, llada, prompts):
    eager = generate(llada, prompts, cache="dual", suffix=THIN)
    assert eager.timings["replayed"] == 0
    monkeypatch.setitem(graphs.CAPTURES, "cpu", RecordedCalls)
    found = generate(llada, prompts, cache="dual", suffix=THIN)
    assert torch.equal(found.sequences, eager.sequences) and found.timings["replayed"] > 0


def test_text_that_has_not_ended_grows_up_to_the_limit(llada):
    out = generate(llada, [[5, 6, 7]], length={**HOW, "end_confidence": 1.0}, max_new_tokens=29)
    assert out.sequences.shape == (1, 32) and out.finish_reason == ["length"]
    # Four at a time to 28, then the one that still fits; nothing is left for a tail.
    assert growth(out) == [[[0, n], [-1, 4]] for n in (19, 23, 27)] + [[[0, 31], [-1, 1]]]


def test_the_tail_is_text_and_no_answer_is_lost_behind_it(llada):
    options = {"length": {**HOW, "end_confidence": 0.0, "low_confidence": 0.0}}
    with_tail = generate(llada, [[5, 6, 7]], **options)
    assert with_tail.sequences.shape == (1, 3 + 16 + 3)
    assert with_tail.sequences[0, -3:].tolist()[:1] == [200]
    assert growth(with_tail) == [[[0, 19], [-1, 3]]]
    assert sum(len(e["positions"]) for e in with_tail.trace.events) == 16
    options["length"]["tail"] = False
    assert generate(llada, [[5, 6, 7]], **options).sequences.shape == (1, 19)


@pytest.mark.parametrize("kind", ["none", "window"])
def test_the_window_that_is_looked_at_stays_visible(kind):
    suffix = dpad.Suffix(kind, window=3) if kind == "window" else dpad.Suffix(kind)
    growth = Growth(dpad.Daedal(window=6), (EOS_ID,))
    q = sequence([1, 2, 3], 24, suffix=suffix, replan=growth, capacity=60)
    draw_suffix([q])
    near = [11, 12, 13] if kind == "window" else []
    assert q.kept.tolist() == near + list(range(20, 27))  # and the row that may predict the first


@pytest.mark.parametrize("stream", ["blocks", "drafts"])
def test_events_are_the_answer(llada, prompts, stream):
    with dpad.Engine(llada) as engine:
        request = engine.submit(prompts[0], stream=stream, **OPTIONS)
        *events, end = list(request)
        blocks = [event for event in events if isinstance(event, Block)]
        assert (len(events) > len(blocks)) == (stream == "drafts")
        out = request.result()
    answer = out.sequences[0, len(prompts[0]) :]
    joined = torch.cat([block.tokens for block in blocks])
    assert joined.tolist() == answer[: len(joined)].tolist()
    assert 200 not in joined[:-1] and end.reason == "length"


def test_a_trace_comes_back_from_its_file(tmp_path, llada, prompts):
    out = generate(llada, prompts)
    out.trace.save(tmp_path / "trace.jsonl")
    assert dpad.Trace.load(tmp_path / "trace.jsonl") == out.trace
    text = (tmp_path / "trace.jsonl").read_text()
    (tmp_path / "bad.jsonl").write_text(text.replace('"canvas": [[0', '"canvas": [[-2', 1))
    with pytest.raises(ValueError, match=r"canvas\[0\] = \[-2, \d+\]"):
        dpad.Trace.load(tmp_path / "bad.jsonl")


def test_the_defaults_are_the_released_programs():
    config = dpad.DPadGenerationConfig(length="daedal")
    assert config.length == dpad.Daedal(64, 8, 32, 0.5, 0.1, 0.9, True)
    changed = dpad.DPadGenerationConfig(length=dpad.Daedal(window=16))
    assert changed.to_diff_dict() == {"length": {"window": 16}}
    assert dpad.DPadGenerationConfig(**changed.to_dict()).length == changed.length


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"length": "long"}, "length = 'long': expected a dpad.Daedal"),
        ({"length": {"windows": 3}}, "length holds windows: the fields of a Daedal are initial_"),
        ({"length": {"window": 0}}, "Daedal.window = 0: expected a whole number from 1"),
        ({"length": {"end_confidence": 1.5}}, "Daedal.end_confidence = 1.5"),
        ({"max_new_tokens": 12}, "initial_length = 16 is more than max_new_tokens = 12"),
        ({"steps": 8, "confidence_threshold": None}, "steps = 8 and length = Daedal"),
        ({"output_history": True}, "output_history = True and length = Daedal"),
        ({"compatible": "llada"}, "compatible = 'llada': that program's answers have one length"),
        ({"kept_suffix": [[0]]}, "kept_suffix is given and length"),
        ({"max_new_tokens": 300}, "prompt of 3 . max_new_tokens of 300 = 303 positions"),
    ],
)
def test_what_is_refused(llada, changes, message):
    with pytest.raises(ValueError, match=message):
        generate(llada, [[5, 6, 7]], **changes)


def test_an_engine_refuses_what_could_not_grow(llada):
    with dpad.Engine(llada, max_tokens=42) as engine:
        with pytest.raises(ValueError, match="3 . max_new_tokens of 40 = 43 positions"):
            engine.submit([5, 6, 7], **OPTIONS)
        assert engine.submit([5, 6], **OPTIONS).result() is not None


def test_block_causal_models_are_refused():
    with pytest.raises(ValueError, match="block-causal attention and sees nothing behind a block"):
        generate(load("sdar"), [[5, 6, 7]], cache="prefix", suffix="none")
