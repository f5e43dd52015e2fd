"""Drafts that are refined, against a plain restatement, and what must not change them."""

import pytest
import torch

import dpad
from tests.doubles.refined import Refined
from tests.generation import test_block_decoding as blocks
from tests.generation.common import DREAM, EOS_ID, MASK_ID, assert_replayed_as_eager, pad

pytestmark = pytest.mark.once

NEW, BLOCK, THRESHOLD = 28, 8, 0.55
FULL = {"suffix": "all", "cache": "none", "early_stop": False, "seed": 3}
FULL |= {"confidence_threshold": THRESHOLD}
IDS = {"llada": (MASK_ID, EOS_ID), "dream": (DREAM["mask_id"], DREAM["eos_id"])}
ENDS = list(range(5, 290, 9))
HOW = {
    "one block": dpad.Refine(0.4),
    "blocks": dpad.Refine(0.4, block_length=6),
    "posthoc": dpad.Refine(0.3, select_by="posthoc"),
    "twice": dpad.Refine(0.25, rounds=2),
    "the unsure": dpad.Refine(0.9, min_confidence=0.5),
}


def generate(model, prompts, **options):
    batch = dict(zip(("input_ids", "attention_mask"), pad(prompts, "left"), strict=True))
    options = {"max_new_tokens": NEW, "block_length": BLOCK, **options}
    return dpad.generate(model, **batch, return_dict_in_generate=True, **options)


def answers(out, new=NEW):
    return out.sequences[:, -new:].tolist()


def plain(model, name, prompt, how, ends=(), width=BLOCK):
    mask_id, eos_id = IDS[name]
    row = Refined(
        model, prompt, NEW, mask_id, THRESHOLD, ends, shift=int(name == "dream"),
        fill=ends[0] if ends else eos_id,
    )  # fmt: skip
    row.draft(width)
    least = 2.0 if how.min_confidence is None else how.min_confidence
    for _ in range(how.rounds):
        row.refine(how.ratio, how.block_length, how.select_by, least)
    return row


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("how", HOW)
def test_the_plain_restatement(request, prompts, how, name):
    model = request.getfixturevalue(name)
    # No text ends here: an end id would be padding behind it.
    fixed = {**FULL, "eos_token_id": 319, "pad_token_id": 319}
    out = generate(model, prompts, refine=HOW[how], **fixed)
    draft = answers(generate(model, prompts, **fixed))
    for row, prompt in enumerate(prompts):
        wanted = plain(model, name, prompt, HOW[how])
        assert answers(out)[row] == wanted.tokens[-NEW:]
        assert int(out.forwards[row]) == wanted.forwards
        assert out.refined[row].tolist() == [wanted.masked, wanted.same]
        assert out.finish_reason[row] == "length"
    assert answers(out) != draft and out.refined[:, 0].min() > 0


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("how", HOW)
def test_the_end_of_the_text_stays_and_what_is_behind_it(request, prompts, how, name):
    model, ended = request.getfixturevalue(name), 0
    options = {**FULL, "early_stop": True, "eos_token_id": ENDS}
    out = generate(model, prompts, refine=HOW[how], **options)
    for row, prompt in enumerate(prompts):
        wanted = plain(model, name, prompt, HOW[how], ENDS)
        tokens = wanted.tokens[-NEW:]
        found = [i for i, token in enumerate(tokens) if token in ENDS]
        cut = found[0] + 1 if found else NEW
        assert answers(out)[row][:cut] == tokens[:cut]
        assert int(out.forwards[row]) == wanted.forwards
        assert out.refined[row].tolist() == [wanted.masked, wanted.same]
        assert out.finish_reason[row] == ("stop" if found else "length")
        ended += cut < NEW
    assert ended


def test_ratio_0_is_the_draft(model, prompts):
    draft = generate(model, prompts, **FULL)
    out = generate(model, prompts, refine=dpad.Refine(0), **FULL)
    assert answers(out) == answers(draft) and torch.equal(out.forwards, draft.forwards)
    assert out.refined.tolist() == [[0, 0]] * len(prompts) and draft.refined is None


def test_too_few_tokens_are_left_alone(llada, prompts):
    """A third of 2 tokens is none."""
    out = generate(llada, prompts, refine=1 / 3, **{**FULL, "max_new_tokens": 2})
    assert out.refined[:, 0].tolist() == [0] * len(prompts)
    assert answers(out, 2) == answers(generate(llada, prompts, **{**FULL, "max_new_tokens": 2}), 2)
    out = generate(llada, prompts, refine=0.29, **{**FULL, "max_new_tokens": 100})
    assert out.refined[0, 0] <= 29


@pytest.mark.parametrize("select_by", ["snapshot", "random", "posthoc"])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_alone_as_in_a_batch_and_an_engine(model, prompts, cache, select_by):
    how = dpad.Refine(0.4, select_by=select_by, block_length=8 if cache == "dual" else None)
    options = {**FULL, "cache": cache, "suffix": dpad.Suffix("gaussian", window=8, density=0.4)}
    options |= {"refine": how, "early_stop": True, "temperature": 1.0, "eos_token_id": ENDS}
    options |= {"dual": {"cfg_scale": 0.7}, "prefix": {"refresh": "recent"}}.get(cache, {})
    together = generate(model, prompts, **options)
    with dpad.Engine(model, max_sequences=3) as engine:
        fixed = {"max_new_tokens": NEW, "block_length": BLOCK, **options}
        requests = [engine.submit(p, row_key=i, **fixed) for i, p in enumerate(prompts)]
        for row, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
            alone, got = generate(model, [prompt], row_keys=[row], **options), request.result()
            assert answers(got) == answers(alone)
            assert answers(together)[row] == answers(alone)[0]
            assert torch.equal(got.forwards, alone.forwards)
            assert torch.equal(got.refined, alone.refined)
            assert got.finish_reason == alone.finish_reason == [together.finish_reason[row]]


def test_random_positions_are_keyed(llada, prompts):
    how = dpad.Refine(0.3, select_by="random")
    one, same, other = (
        generate(llada, prompts, refine=how, trace=True, **{**FULL, "seed": seed})
        for seed in (3, 3, 4)
    )
    commits = lambda out: [e["positions"] for e in out.trace.events]  # noqa: E731
    assert commits(one) == commits(same) != commits(other)


@pytest.mark.parametrize(
    "rule",
    [
        {"steps": 14},
        {"factor": 1.0},
        {"commit": "leap"},
        {"commit": dpad.rules.Prophet(2.0, 1.5, 1.0)},
        {"alg": "ancestral", "temperature": 1.0},
        {"alg": "first_hitting", "temperature": 1.0},
        {"entropy_bound": 1.0, "cfg_scale": 0.7},
    ],
    ids=str,
)
def test_every_rule_drafts_and_refines(model, prompts, rule):
    options = {n: v for n, v in FULL.items() if n != "confidence_threshold"} | rule
    out = generate(model, prompts, refine=dpad.Refine(0.5, rounds=2), **options)
    mask_id = IDS["dream" if "Dream" in type(model).__name__ else "llada"][0]
    assert mask_id not in sum(answers(out), []) and (out.refined[:, 0] > 0).all()
    draft = generate(model, prompts, **options)
    assert (out.forwards > draft.forwards).all()


def test_streams_get_the_refined_text_once(llada, prompts):
    class Streamer:
        def __init__(self):
            self.seen = []

        def put(self, value):
            self.seen.append(value.flatten().tolist())

        def end(self):
            self.seen.append("end")

    streamer, prompt = Streamer(), prompts[0]
    out = generate(llada, [prompt], refine=0.4, streamer=streamer, **FULL)
    assert streamer.seen[0] == prompt and streamer.seen[-1] == "end"
    text = sum(streamer.seen[1:-1], [])
    assert text == answers(out)[0][: len(text)] and len(streamer.seen) == 3


@pytest.mark.filterwarnings("ignore:refine")
@pytest.mark.parametrize("cache", ("none", "prefix", "dual"))
@pytest.mark.parametrize("family", blocks.KINDS)
def test_blocks_that_see_nothing_behind_come_back_the_same(family, cache):
    """Masked as a whole, each block is decoded from what it was drafted from."""
    model, prompts = blocks.load(family), [[5, 17, 99, 4], [3, 250, 7, 8, 21, 90, 3, 17]]
    fixed = {"block_length": 4, "max_new_tokens": 24, "mask_token_id": blocks.MASK_ID}
    fixed |= {"confidence_threshold": 0.3, "early_stop": False, "cache": cache}
    fixed |= {"eos_token_id": 319, "pad_token_id": 319}  # ends no text
    draft = generate(model, prompts, **fixed)
    for how in (dpad.Refine(1.0), dpad.Refine(1.0, rounds=2)):
        out = generate(model, prompts, refine=how, **fixed)
        assert answers(out, 24) == answers(draft, 24)
        assert out.refined.tolist() == [[24 * how.rounds] * 2] * 2


@pytest.mark.filterwarnings("ignore:refine")
@pytest.mark.parametrize("family", blocks.KINDS)
def test_every_chosen_token_of_a_block_is_decoded_again(family, tmp_path):
    """Its first one too, which the row before predicts where logits are shifted."""
    model, fixed = blocks.load(family), {"mask_token_id": blocks.MASK_ID, "early_stop": False}
    fixed |= {"block_length": 4, "max_new_tokens": 20, "confidence_threshold": 0.3}
    fixed |= {"trace": True}
    for ratio in (0.1, 0.2, 0.3, 0.4, 0.5):
        out = generate(model, [[5, 17, 99, 4], [3, 21]], refine=ratio, **fixed)
        assert blocks.MASK_ID not in out.sequences
        out.trace.save(tmp_path / "trace.jsonl")  # the canvas is longer: it has whole blocks
        assert dpad.Trace.load(tmp_path / "trace.jsonl") == out.trace


@pytest.mark.parametrize("family", blocks.KINDS)
def test_block_causal_models_run_and_say_so(family):
    model, prompts = blocks.load(family), [[5, 17, 99], [3, 250, 7, 8, 21, 90]]
    fixed = {"block_length": 4, "max_new_tokens": 24, "mask_token_id": blocks.MASK_ID}
    fixed |= {"refine": 0.4, "confidence_threshold": 0.3, "early_stop": False}
    with pytest.warns(UserWarning, match="was not trained to see what is kept behind"):
        plainly = generate(model, prompts, **fixed, cache="none")
    with pytest.warns(UserWarning):
        cached = generate(model, prompts, **fixed, cache="prefix")
    assert answers(plainly, 24) == answers(cached, 24)
    assert torch.equal(plainly.refined, cached.refined) and (plainly.refined[:, 0] > 0).all()
    assert blocks.MASK_ID not in plainly.sequences
    for options, words in (({"select_by": "posthoc"}, "by snapshot or random"),
                           ({"block_length": 4}, "in its own blocks")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            generate(model, prompts, **{**fixed, "refine": dpad.Refine(0.4, **options)})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"refine": 2.0}, ("Refine.ratio = 2.0", "0 to 1")),
        ({"refine": "more"}, ("refine = 'more'", "dpad.Refine")),
        ({"refine": {"odd": 1}}, ("refine", "select_by")),
        ({"refine": {"select_by": "luck"}}, ("Refine.select_by = 'luck'", "posthoc")),
        ({"refine": 0.2, "compatible": "llada"}, ("refine = Refine", "'llada'")),
        ({"refine": 0.2, "length": "daedal"}, ("refine = Refine", "length = Daedal")),
        ({"refine": 0.2, "remask": "cap"}, ("refine = Refine", "remask = Remask")),
        ({"refine": 0.2, "commit": "klass"}, ("refine = Refine", "commit = Klass")),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError) as caught:
        dpad.DPadGenerationConfig(**options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_hooks_are_refused(llada, prompts):
    hook = {"generation_tokens_hook_func": lambda step, x, logits: x}
    with pytest.raises(ValueError, match="generation_tokens_hook_func: the hook masks itself"):
        generate(llada, prompts, refine=0.2, **hook, **FULL)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_replayed_as_eager(monkeypatch, llada, prompts, cache):
    """Blocks that are longer than those of the draft have room in a graph."""
    options = {**FULL, "cache": cache, "refine": 0.8, "mask_token_id": MASK_ID}
    assert_replayed_as_eager(monkeypatch, llada, prompts, generate, options)
