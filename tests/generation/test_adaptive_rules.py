"""Adaptive commit rules against plain restatements, in every cache and batch."""

import dataclasses

import pytest
import torch

import dpad
from dpad import rules
from dpad.decode import device as devices
from dpad.decode.rules import KINDS
from tests.doubles import adaptive_rules
from tests.generation import test_block_decoding as blocks
from tests.generation.common import DREAM, MASK_ID, assert_replayed_as_eager, pad

pytestmark = pytest.mark.once

# Values at which each rule of the tiny models sometimes accepts and sometimes does not.
CHOSEN = {
    "streaming": rules.Streaming(0.7, 0.6),
    "klass": rules.Klass(0.3, 0.2, 2),
    "credit": rules.Credit(0.8, 0.7, 0.2, 0.8),
    "prophet": rules.Prophet(1.2, 0.9, 0.6),
    "leap": rules.LocalLeap(0.6, 0.3, 2),
    "prefix": rules.StablePrefix(0.5),
}
FULL = {"suffix": "all", "cache": "none", "early_stop": False, "seed": 3}
MASKS = {"llada": MASK_ID, "dream": DREAM["mask_id"]}


def generate(model, prompts, **options):
    batch = dict(zip(("input_ids", "attention_mask"), pad(prompts, "left"), strict=True))
    options = {"return_dict_in_generate": True, "max_new_tokens": 20, "block_length": 8, **options}
    return dpad.generate(model, **batch, **options)


def answers(out, new=20):
    return out.sequences[:, -new:].tolist()


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_rule_is_the_plain_one(request, prompts, kind, name):
    model = request.getfixturevalue(name)
    out = generate(model, prompts, commit=CHOSEN[kind], **FULL)
    shift = int(name == "dream")
    parallel = 0
    for row, prompt in enumerate(prompts):
        canvas, forwards = adaptive_rules.decode(
            model, prompt, CHOSEN[kind], new=20, block=8, mask_id=MASKS[name], shift=shift
        )
        assert answers(out)[row] == canvas[-20:].tolist()
        assert int(out.forwards[row]) == forwards
        parallel += forwards < 20
    assert parallel, "the rule never accepts: this test shows nothing"
    one_by_one = generate(model, prompts, confidence_threshold=2.0, **FULL)
    assert answers(out) != answers(one_by_one) or not torch.equal(out.forwards, one_by_one.forwards)


def test_prophet_with_steps_keeps_the_quota(llada, prompts):
    """20 masks in 10 steps: 4, 4 and 2 of them for the blocks of 8, 8 and 4."""
    rule, quotas = CHOSEN["prophet"], [[2, 2, 2, 2], [3, 3, 2], [2, 1, 1]]
    assert [len(q) for q in quotas] == dpad.ops.transfer_schedule(10, 3).tolist()
    out = generate(llada, prompts, commit=rule, steps=10, **FULL)
    for row, prompt in enumerate(prompts):
        canvas, forwards = adaptive_rules.decode(
            llada, prompt, rule, new=20, block=8, mask_id=MASK_ID, quotas=quotas
        )
        assert answers(out)[row] == canvas[-20:].tolist()
        assert int(out.forwards[row]) == forwards


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("kind", KINDS)
def test_alone_as_in_a_batch_and_an_engine(model, prompts, kind, cache):
    """Rows that share a pass with rows of other lengths, thresholds and blocks keep their own."""
    options = {**FULL, "cache": cache, "suffix": dpad.Suffix("gaussian", window=8, density=0.4)}
    first = KINDS[kind].fields and next(iter(KINDS[kind].fields))
    changed = dataclasses.replace(CHOSEN[kind], **{first: 0.9 * getattr(CHOSEN[kind], first)})
    both = (CHOSEN[kind], changed)
    together = generate(model, prompts, commit=both[0], **options)
    with dpad.Engine(model, max_sequences=4) as engine:
        requests = [
            engine.submit(
                prompt,
                row_key=row,
                commit=both[row % 2],
                max_new_tokens=20,
                block_length=8,
                **options,
            )
            for row, prompt in enumerate(prompts)
        ]
        for row, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
            alone = generate(model, [prompt], row_keys=[row], commit=both[row % 2], **options)
            assert answers(request.result()) == answers(alone)
            assert torch.equal(request.result().forwards, alone.forwards)
            if row % 2 == 0:
                assert answers(together)[row] == answers(alone)[0]


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("kind", KINDS)
def test_replayed_as_eager(monkeypatch, llada, prompts, kind, cache):
    options = {**FULL, "cache": cache, "commit": CHOSEN[kind], "mask_token_id": MASK_ID}
    assert_replayed_as_eager(monkeypatch, llada, prompts, generate, options)


@pytest.mark.parametrize("part", [None, 4])
@pytest.mark.parametrize("family", blocks.KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_block_causal_models_with_and_without_a_cache(family, kind, part):
    """Their cache is exact: the same tokens in as many forwards that predict."""
    model, prompts = blocks.load(family), [[5, 17, 99], [3, 250, 7, 8, 21, 90]]
    fixed = {"early_stop": False, "commit": CHOSEN[kind], "block_length": 8, "max_new_tokens": 24}
    fixed |= {"mask_token_id": blocks.MASK_ID, "sub_block_length": part}
    plain = generate(model, prompts, **{**fixed, "cache": "none"})
    cached = generate(model, prompts, **{**fixed, "cache": "prefix"})
    assert answers(plain, 24) == answers(cached, 24)


@pytest.mark.parametrize("kind", KINDS)
def test_thresholds_out_of_reach_take_one_token_per_step(llada, prompts, kind):
    never = dict.fromkeys(KINDS[kind].fields, 1e9)
    never |= {n: 0 for n in ("alpha", "gamma", "beta", "radius") if n in KINDS[kind].fields}
    never |= {"stable": 100} if kind == "klass" else {}
    out = generate(llada, prompts, commit={"kind": kind, **never}, **FULL)
    assert out.forwards.tolist() == [20] * len(prompts)
    if kind == "prefix":
        left = generate(llada, prompts, alg="sequential", **FULL)
        assert answers(out) == answers(left)
    else:
        assert answers(out) == answers(generate(llada, prompts, confidence_threshold=2.0, **FULL))


def test_options_are_read_in_every_form():
    config = dpad.DPadGenerationConfig(commit={"kind": "klass", "threshold": 0.6})
    assert config.commit == rules.Klass(0.6)
    again = dpad.DPadGenerationConfig(**config.to_diff_dict())
    assert again == config and config.to_diff_dict()["commit"]["divergence"] == 0.01
    assert dpad.DPadGenerationConfig(commit="leap").commit == rules.LocalLeap()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"commit": "nothing"}, ("commit = 'nothing'", "klass", "prophet")),
        ({"commit": {"kind": "klass", "odd": 1}}, ("commit holds odd", "divergence")),
        ({"commit": {"kind": "streaming", "alpha": 2}}, ("Streaming.alpha = 2", "0 to 1")),
        ({"commit": {"kind": "klass", "stable": 1.5}}, ("Klass.stable = 1.5",)),
        ({"commit": "klass", "factor": 1.0}, ("factor = 1.0", "commit = Klass")),
        ({"commit": "klass", "steps": 8}, ("steps = 8", "commit = Klass")),
        ({"commit": "leap", "remasking": "random"}, ("remasking", "random", "commit")),
        ({"commit": "leap", "alg": "entropy"}, ("alg = 'entropy'", "commit")),
        ({"commit": "leap", "compatible": "llada"}, ("commit = LocalLeap", "'llada'")),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError) as caught:
        dpad.DPadGenerationConfig(**options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_supplied_scores_are_refused(llada, prompts):
    with pytest.raises(ValueError, match="confidences is given and commit = Klass"):
        generate(llada, prompts, commit="klass", confidences=lambda *_: None, **FULL)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_gaps_behind_a_prompt_are_an_answer(request, prompts, kind, name):
    """And a block that holds text beside its masks is decided by its masks."""
    model, prompt = request.getfixturevalue(name), prompts[0]
    given = {"commit": CHOSEN[kind], "block_length": 8, **FULL}
    text = [*prompt, *[MASKS[name]] * 20]
    filled = dpad.generate(model, [text], infill=True, return_dict_in_generate=True, **given)
    out = generate(model, [prompt], **given)
    assert filled.sequences[0, -20:].tolist() == answers(out)[0]
    assert torch.equal(filled.forwards, out.forwards)
    text[len(prompt) + 3] = 77
    filled = dpad.generate(model, [text], infill=True, **given)[0].tolist()
    assert filled[len(prompt) + 3] == 77 and MASKS[name] not in filled


def test_what_does_not_fit_is_refused_with_the_bytes(monkeypatch, llada, prompts):
    """Before the request has taken a place; others of an engine go on."""
    with dpad.Engine(llada, max_sequences=2) as engine:
        engine.submit(prompts[0], max_new_tokens=8, seed=1).result()
        monkeypatch.setattr(devices, "free_bytes", lambda device: 1000)
        refused = engine.submit(prompts[1], commit="klass", max_new_tokens=8, seed=1)
        beside = engine.submit(prompts[2], max_new_tokens=8, seed=1)
        with pytest.raises(MemoryError, match=r"needs [\d,]+ bytes for 2 rows"):
            refused.result()
        assert beside.result().finish_reason[0] in ("length", "stop")
        assert engine.stats()["kv_slots"] == 0
