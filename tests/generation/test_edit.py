"""Tokens that are edited after they were filled: LLaDA2.1's loop, plainly restated."""

import pytest
import torch

import dpad
from dpad.decode import graphs
from tests.doubles.recorded_calls import RecordedCalls
from tests.generation.common import logits
from tests.generation.test_block_decoding import KINDS, pad, prompt_of
from tests.generation.test_block_likelihood import with_block

M, END = 311, 300
PROMPTS = [prompt_of(n) for n in (3, 8, 21)]
# Commit threshold, and an `Edit` that random weights make use of.
SETTINGS = {
    "often": (0.3, dpad.Edit(0.02)),
    "seldom": (0.1, dpad.Edit(0.15)),
    "twice": (0.05, dpad.Edit(0.01, most_steps=2)),
    "at once": (0.3, dpad.Edit(0.02, most_steps=0)),
    "never": (0.3, dpad.Edit(1.0)),
}
OPTIONS = {
    "max_new_tokens": 21,
    "block_length": 8,
    "confidence_threshold": 0.3,
    "mask_token_id": M,
    "eos_token_id": END,
    "pad_token_id": END,
    "early_stop": False,
    "seed": 5,
    "return_dict_in_generate": True,
}


def plain(model, prompt, threshold, edit, new=21, block=8, ends=()):
    """Everything is computed in each pass: tokens, passes and edits."""
    causal = not hasattr(model.config, "n_layers")
    last = len(prompt) + new
    last = -(-last // block) * block if causal else last
    canvas = torch.tensor(prompt + [M] * (last - len(prompt)))
    passes = edits = 0
    for begin in range(len(prompt) // block * block if causal else len(prompt), last, block):
        end, steps = min(begin + block, last), 0
        window, place = canvas[begin:end], torch.arange(begin, min(begin + block, last))
        while True:
            masked = window == M
            steps += not masked.any()
            if steps > edit.most_steps:
                break
            p = logits(model, canvas[None, : end if causal else last])[0, begin:end].softmax(-1)
            token = p.index_fill(1, torch.tensor([M]), -1.0).argmax(-1)
            p = p.gather(1, token[:, None])[:, 0]
            commit = masked & (p >= threshold)
            if masked.any() and not commit.any():
                commit[p.masked_fill(~masked, -1).argmax()] = True
            edited = ~masked & (place >= len(prompt)) & (p > edit.threshold) & (token != window)
            window[commit | edited] = token[commit | edited]
            passes, edits = passes + 1, edits + int(edited.sum())
            if not masked.any() and not edited.any():
                break
        if any(int(t) in ends for t in canvas[len(prompt) : end]):
            break
    return canvas[: len(prompt) + new].tolist(), passes, edits


def generate(model, prompts, **changes):
    ids, mask = pad(prompts, "left", END)
    return dpad.generate(model, ids, attention_mask=mask, **{**OPTIONS, **changes})


def rows(out, prompts):
    width = max(map(len, prompts))
    return [s[width - len(p) :].tolist() for s, p in zip(out.sequences, prompts, strict=True)]


@pytest.fixture(params=[*KINDS, "llada"])
def model(request, llada):
    return llada if request.param == "llada" else with_block(request.param, 8)


@pytest.mark.parametrize("cache", ["none", "prefix"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_plain_restatement(request, name, cache, llada):
    threshold, edit = SETTINGS[name]
    models = [(with_block("sdar", 8), {})]
    if cache == "none":  # exact there only
        models.append((llada, {"suffix": "all"}))
    for model, options in models:
        total = 0
        for prompt in PROMPTS:
            want, passes, edits = plain(model, prompt, threshold, edit)
            how = {"confidence_threshold": threshold, "edit": edit, "cache": cache, **options}
            out = generate(model, [prompt], **how)
            assert rows(out, [prompt]) == [want]
            assert out.forwards.tolist() == [passes]
            total += edits
        assert (total > 0) == (name != "never")


def test_without_edits_each_block_takes_one_more_forward(model):
    plainly = generate(model, PROMPTS[:1])
    out = generate(model, PROMPTS[:1], edit=1.0)
    assert out.sequences.equal(plainly.sequences)
    assert (out.forwards - plainly.forwards).tolist() == [3]  # blocks


@pytest.mark.parametrize("name", ["often", "seldom"])
def test_alone_as_in_a_batch_as_in_an_engine(model, name):
    threshold, edit = SETTINGS[name]
    how = {"confidence_threshold": threshold, "edit": edit, "cache": "prefix"}
    batch = generate(model, PROMPTS, **how)
    with dpad.Engine(model, max_sequences=2, max_tokens=300) as engine:
        given = {**OPTIONS, **how}
        requests = [engine.submit(p, row_key=n, **given) for n, p in enumerate(PROMPTS)]
        for row, request in enumerate(requests):
            alone = generate(model, [PROMPTS[row]], row_keys=[row], **how)
            own = alone.sequences[0].tolist()
            assert request.result().sequences[0].tolist() == own
            assert rows(batch, PROMPTS)[row][: len(own)] == own
            assert batch.forwards[row] == alone.forwards[0]


def test_the_end_is_looked_for_when_a_block_is_done():
    """An end id that is filled and then edited away ends nothing; one that stays ends the text."""
    model, (threshold, edit) = with_block("sdar", 8), SETTINGS["often"]
    prompt = PROMPTS[1]
    whole, _, _ = plain(model, prompt, threshold, edit)
    how = {"confidence_threshold": threshold, "edit": edit, "early_stop": True}
    for end in set(whole[8:]):
        want, passes, _ = plain(model, prompt, threshold, edit, ends=[end])
        first = 8 + want[8:].index(end)
        out = generate(model, [prompt], eos_token_id=end, pad_token_id=7, **how)
        assert out.sequences[0].tolist() == want[: first + 1] + [7] * (29 - first - 1)
        assert out.forwards.tolist() == [passes] and out.finish_reason == ["stop"]


def test_captured_steps_edit_the_same(monkeypatch, model):
    threshold, edit = SETTINGS["often"]
    how = {"confidence_threshold": threshold, "edit": edit, "cache": "prefix"}
    eager = generate(model, PROMPTS, **how)
    monkeypatch.setitem(graphs.CAPTURES, "cpu", RecordedCalls)
    found = generate(model, PROMPTS, **how)
    assert found.timings["replayed"] > 0
    assert found.sequences.equal(eager.sequences) and found.forwards.equal(eager.forwards)


def test_a_trace_shows_what_stayed():
    model, (threshold, edit) = with_block("sdar", 8), SETTINGS["often"]
    out = generate(model, PROMPTS[:1], confidence_threshold=threshold, edit=edit, trace=True)
    shown = {}
    for event in out.trace.events:
        shown |= zip(event["positions"], event["tokens"], strict=True)
    whole = rows(out, PROMPTS[:1])[0]
    assert [shown[p] for p in range(3, len(whole))] == whole[3:]


@pytest.mark.parametrize("value", [0.9, dpad.Edit(0.9), {"threshold": 0.9}])
def test_what_edit_takes(value):
    assert dpad.DPadGenerationConfig(edit=value).edit == dpad.Edit(0.9)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"refine": 0.25}, "edit = .* and refine"),
        ({"remask": "cap", "temperature": 1.0}, "edit = .* and remask"),
        ({"alg": "first_hitting", "temperature": 1.0}, "edit = .* and alg"),
        ({"length": "daedal"}, "edit = .* and length"),
        ({"compatible": "llada"}, "edit = .* and compatible"),
        ({"infill": True}, "edit = .* and infill"),
        ({"sub_block_length": 4}, "edit = .* and sub_block_length"),
        ({"generation_tokens_hook_func": lambda step, x, logits: x}, "generation_tokens_hook_func"),
        ({"edit": "x"}, "edit = 'x': expected a dpad.Edit, its threshold, or a dict"),
        ({"edit": {"threshold": -1}}, "Edit.threshold = -1"),
        ({"edit": {"most_steps": 1.5}}, "Edit.most_steps = 1.5"),
    ],
)
def test_what_is_refused(llada, changes, told):
    if "alg" in changes or "remask" in changes:
        changes = {**changes, "confidence_threshold": None}
    with pytest.raises(ValueError, match=told):
        generate(llada, PROMPTS[:1], **{"edit": 0.9, **changes})
