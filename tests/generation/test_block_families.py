"""What holds of block-causal decoding, on every family that decodes by blocks."""

from functools import partial

import pytest
import torch

import dpad
from dpad.models.adapter import find_adapter
from tests.generation.common import assert_close, logits, pad, skip_a_save
from tests.generation.test_block_decoding import plain_decode
from tests.models.families import golden, small
from tests.models.test_bd3lm import small as bd3lm

# Family -> its small model and the mask's id.
FAMILIES = {
    "sdar": (partial(golden, "SDARForCausalLM", "sdar_gqa"), 311),
    "sdar-moe": (partial(small, "SDARMoeForCausalLM"), 60),
    "fast-dllm-v2": (partial(golden, "Fast_dLLM_QwenForCausalLM", "fastv2_gqa"), 311),
    "llada2": (partial(small, "LLaDA2MoeModelLM"), 60),
    "a2d": (partial(small, "A2DQwen2LMHeadModel"), 60),
    "bd3lm": (bd3lm, 66),
}
PROMPTS = [[7, 8, 9], list(range(20, 33)), [5], list(range(40, 18, -1))]
OPTIONS = {"max_new_tokens": 20, "block_length": 8, "confidence_threshold": 0.3, "seed": 1}


@pytest.fixture(params=FAMILIES)
def family(request):
    """(model, id of its mask, shift of its logits)"""
    make, mask = FAMILIES[request.param]
    model = make()
    return model, mask, find_adapter(model).shift


def decode(model, mask, prompts, **options):
    """Texts and forwards of the rows of one call."""
    ids, seen = pad(prompts, "left", 0)
    given = {"mask_token_id": mask, "pad_token_id": 0, "early_stop": False, **OPTIONS, **options}
    out = dpad.generate(model, ids, attention_mask=seen, return_dict_in_generate=True, **given)
    width = ids.shape[1]
    texts = [t[width - len(p) :].tolist() for t, p in zip(out.sequences, prompts, strict=True)]
    return texts, out.forwards.tolist()


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("block", [4, 8])
def test_the_plain_restatement(family, block, cache):
    model, mask, _ = family
    want, passes = plain_decode(model, PROMPTS[1], 20, block, 0.3, mask_id=mask)
    found = decode(model, mask, PROMPTS[1:2], block_length=block, cache=cache)
    assert found == ([want], [passes])


def test_blocks_of_one_are_autoregressive(family):
    """The surest of one mask is that mask: token by token, each seeing what is before it."""
    model, mask, shift = family
    text = list(PROMPTS[1])
    for _ in range(12):
        fed = torch.tensor([text if shift else [*text, mask]])
        causal = torch.ones(1, fed.shape[1], fed.shape[1]).tril().bool()
        row = logits(model, fed, attention_mask=causal)[0, -1]
        row[mask] = -torch.inf
        text.append(int(row.argmax()))
    found, passes = decode(model, mask, PROMPTS[1:2], max_new_tokens=12, block_length=1)
    assert found == [text] and passes == [12]


def test_one_block_over_everything_is_full_attention(family):
    model, mask, shift = family
    ids = torch.tensor([PROMPTS[1] + [mask] * 19])
    everything = torch.ones(1, 32, 32, dtype=torch.bool)
    with dpad.patch(model) as handle:
        handle.adapter.block_length = 32
        with torch.no_grad():
            found = handle.full_forward.logits(ids)
    assert_close(found, logits(model, ids, attention_mask=everything))
    if shift:
        return  # its blocks begin with a token of their own, which full attention has not
    given = {"max_new_tokens": 19, "mask_token_id": mask, "pad_token_id": 0, "early_stop": False}
    given |= {"confidence_threshold": 0.3, "return_dict_in_generate": True}
    by_blocks = dpad.generate(model, PROMPTS[1:2], block_length=32, **given)
    with dpad.patch(model) as handle:
        handle.adapter.attention = "full"
        whole = model.generate(PROMPTS[1:2], block_length=19, **given)
    assert by_blocks.sequences.equal(whole.sequences)
    assert by_blocks.forwards.equal(whole.forwards)


def llada2_decode(model, mask, prompt, new, threshold):
    """LLaDA2.0's rule restated: a block of 32 has at most `new` steps, whose shares of it are due
    where fewer are sure.
    """
    steps, end = min(32, new), -(-(len(prompt) + new) // 32) * 32
    canvas = torch.tensor([prompt + [mask] * (end - len(prompt))])
    for stop in range(len(prompt) // 32 * 32 + 32, end + 1, 32):
        for step in range(steps):
            masked = (canvas[0, :stop] == mask).nonzero()[:, 0]
            if not masked.numel():
                break
            probability = logits(model, canvas[:, :stop])[0, masked].softmax(-1)
            probability[:, mask] = 0
            score, token = probability.max(-1)
            share = min(32 // steps + (step < 32 % steps), masked.numel())
            sure = score > threshold
            if sure.sum() < share:
                sure = torch.zeros_like(sure).scatter(0, score.topk(share).indices, True)
            canvas[0, masked[sure]] = token[sure]
    return canvas[0, : len(prompt) + new].tolist()


@pytest.mark.parametrize("length", [5, 17, 33])
@pytest.mark.parametrize("new", [16, 24, 40])
def test_llada2_as_its_own_program(new, length):
    model, mask = FAMILIES["llada2"][0](), 60
    prompt = torch.randint(0, 50, (length,), generator=torch.Generator().manual_seed(new)).tolist()
    options = {"block_length": 32, "max_new_tokens": new, "confidence_threshold": 0.6}
    if new < 32:  # SDAR's rule
        options |= {"compatible": "sdar-eval", "alg": "low_confidence_dynamic", "steps": new}
        options |= {"temperature": 0.0}
    found, _ = decode(model, mask, [prompt], **options)
    assert found[0][: length + new] == llada2_decode(model, mask, prompt, new, 0.6)


@pytest.mark.parametrize("cache", ["none", "prefix"])
def test_a_row_is_the_same_alone_in_a_batch_and_in_an_engine(family, cache):
    model, mask, _ = family
    texts, passes = decode(model, mask, PROMPTS, cache=cache)
    alone = [decode(model, mask, [p], row_keys=[i], cache=cache) for i, p in enumerate(PROMPTS)]
    assert [(t, f) for t, f in zip(texts, passes, strict=True)] == [(t[0], f[0]) for t, f in alone]
    given = {"mask_token_id": mask, "pad_token_id": 0, "early_stop": False, **OPTIONS}
    with dpad.Engine(model, max_sequences=2, max_tokens=100) as engine:
        requests = [
            engine.submit(prompt, cache=cache, row_key=row, **given)
            for row, prompt in enumerate(PROMPTS)
        ]
        served = [request.result() for request in requests]
    assert [s.sequences[0].tolist() for s in served] == texts
    assert [int(s.forwards[0]) for s in served] == passes


def test_passes_of_their_own_save_the_same(family):
    """As the published decoders have them; such a pass predicts nothing."""
    model, mask, shift = family
    if shift:
        pytest.skip("the last row of its saves predicts")
    merged, passes = decode(model, mask, PROMPTS[1:2], max_new_tokens=19)
    apart, more = decode(model, mask, PROMPTS[1:2], max_new_tokens=19, compatible="lmdeploy")
    assert apart == merged and more == [passes[0] + 1 + 3]  # a prefill, and three blocks


def test_a_save_that_is_skipped_is_noticed(family, monkeypatch):
    model, mask, _ = family
    want = decode(model, mask, PROMPTS[1:2], max_new_tokens=27)
    skip_a_save(monkeypatch)
    assert decode(model, mask, PROMPTS[1:2], max_new_tokens=27) != want
