"""Block-causal decoding against a plain restatement, and what must not change its tokens."""

import pytest
import torch

import dpad
from tests.generation.common import pad, skip_a_save
from tests.models.families import golden

MASK_ID, END = 311, 300
# Kind -> class and golden weights.
KINDS = {
    "sdar": ("SDARForCausalLM", "sdar_gqa"),
    "fastdllm_v2": ("Fast_dLLM_QwenForCausalLM", "fastv2_gqa"),
}
OPTIONS = {"early_stop": False, "confidence_threshold": 0.3, "seed": 1}
OPTIONS |= {"mask_token_id": MASK_ID, "pad_token_id": END}


def load(kind):
    """The native class with the golden weights of a kind, float32."""
    return golden(*KINDS[kind])


@pytest.fixture(scope="module")
def models():
    return {kind: load(kind) for kind in KINDS}


def prompt_of(length, seed=0):
    generator = torch.Generator().manual_seed(1000 * length + seed)
    return torch.randint(3, 300, (length,), generator=generator).tolist()


def plain_decode(model, prompt, new, block, threshold, part=None, mask_id=MASK_ID):
    """Every pass computes all that is there, nothing is kept: tokens, and passes that commit."""
    with dpad.patch(model) as handle:
        handle.adapter.block_length = block
        shift = handle.adapter.shift
        end = -(-(len(prompt) + new) // block) * block
        canvas, passes = torch.tensor([prompt + [mask_id] * (end - len(prompt))]), 0
        for begin in range(len(prompt) // block * block, end, block):
            parts = range(begin, begin + block, part or block)
            stops = [begin + 1] * bool(shift) + [p + (part or block) for p in parts]
            for stop in stops:
                while True:
                    masked = (canvas[0, begin:stop] == mask_id).nonzero()[:, 0] + begin
                    if not masked.numel():
                        break
                    with torch.no_grad():
                        logits = handle.full_forward.logits(canvas[:, : begin + block])[0]
                    logits = logits[masked - shift]
                    if handle.adapter.untrained_mask:
                        logits[:, mask_id] = -torch.inf
                    probability = logits.softmax(-1)
                    probability[:, mask_id] = 0  # it is never committed
                    score, token = probability.max(-1)
                    sure = score >= threshold
                    sure[score.argmax()] = True
                    canvas[0, masked[sure]] = token[sure]
                    passes += 1
    return canvas[0, : len(prompt) + new].tolist(), passes


def decode(model, prompts, **options):
    ids, mask = pad(prompts, "left", END)
    with dpad.patch(model):
        return model.generate(
            ids, attention_mask=mask, return_dict_in_generate=True, **{**OPTIONS, **options}
        )


def rows(out, prompts):
    width = max(map(len, prompts))
    return [s[width - len(p) :].tolist() for s, p in zip(out.sequences, prompts, strict=True)]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("block", [1, 4, 16])
@pytest.mark.parametrize("length", [1, 5, 16, 18])
@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_restatement(models, kind, length, block, cache):
    """Blocks of 1 are autoregressive; "dual" without parts keeps what "prefix" keeps."""
    prompt = prompt_of(length)
    want, passes = plain_decode(models[kind], prompt, 21, block, 0.3)
    out = decode(models[kind], [prompt], max_new_tokens=21, block_length=block, cache=cache)
    assert rows(out, [prompt]) == [want]
    assert out.forwards.tolist() == [passes]


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_blocks(models, kind):
    prompt = prompt_of(13)
    want, passes = plain_decode(models[kind], prompt, 40, 16, 0.3, part=4)
    options = {"max_new_tokens": 40, "block_length": 16, "sub_block_length": 4}
    out = decode(models[kind], [prompt], **options)
    assert rows(out, [prompt]) == [want]
    assert out.forwards.tolist() == [passes]


def test_one_block_over_everything_is_full_attention(models):
    model, prompt = models["sdar"], prompt_of(7)
    found = decode(model, [prompt], max_new_tokens=25, block_length=32)
    with dpad.patch(model) as handle:
        handle.adapter.attention = "full"
        full = model.generate(
            [prompt], max_new_tokens=25, block_length=25, return_dict_in_generate=True, **OPTIONS
        )
    assert found.sequences.equal(full.sequences)
    assert found.forwards.equal(full.forwards)


VARIANTS = {
    "plain": {},
    "parts": {"sub_block_length": 4, "cache": "dual"},
    "sampled": {"temperature": 0.7, "top_p": 0.9, "top_k": 40},
    "guided": {"cfg_scale": 0.5},
    "quota": {"steps": 10, "confidence_threshold": None},
    "dynamic": {"steps": 10, "alg": "low_confidence_dynamic"},
    "stopped": {"early_stop": True, "eos_token_id": list(range(150))},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_alone_in_a_batch_and_in_an_engine(models, kind, variant):
    prompts = [prompt_of(n) for n in (3, 8, 13, 30)]
    options = {"max_new_tokens": 20, "block_length": 8, **VARIANTS[variant]}
    together = decode(models[kind], prompts, **options)
    alone = [decode(models[kind], [p], row_keys=[i], **options) for i, p in enumerate(prompts)]
    assert rows(together, prompts) == [rows(a, [p])[0] for a, p in zip(alone, prompts, strict=True)]
    assert together.forwards.tolist() == [int(a.forwards[0]) for a in alone]
    assert not (together.sequences == MASK_ID).any()
    with dpad.Engine(models[kind], max_sequences=3, max_tokens=400) as engine:
        served = list(engine.map(prompts, **{**OPTIONS, **options}))
    assert [s.sequences[0].tolist() for s in served] == rows(together, prompts)
    assert [s.finish_reason for s in served] == [[r] for r in together.finish_reason]


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_without_a_cache_beside_cached_ones(models, kind):
    """They share a pass, and each row looks no further than its own sequence lets it."""
    prompts = [prompt_of(n) for n in (13, 3, 30, 8)]
    caches = ["dual", "none", "prefix", "none"]
    options = {"max_new_tokens": 20, "block_length": 8}
    with dpad.Engine(models[kind], max_sequences=4, max_tokens=400) as engine:
        asked = zip(prompts, caches, strict=True)
        requests = [engine.submit(p, cache=c, **{**OPTIONS, **options}) for p, c in asked]
        served = [request.result() for request in requests]
    for out, prompt, cache in zip(served, prompts, caches, strict=True):
        alone = decode(models[kind], [prompt], cache=cache, **options)
        assert out.sequences[0].tolist() == rows(alone, [prompt])[0]
        assert out.forwards.tolist() == alone.forwards.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_save_that_is_skipped_is_noticed(models, kind, monkeypatch):
    prompt = prompt_of(13)
    options = {"max_new_tokens": 24, "block_length": 8}
    want = rows(decode(models[kind], [prompt], **options), [prompt])
    skip_a_save(monkeypatch)
    found = rows(decode(models[kind], [prompt], **options), [prompt])
    assert found != want


def test_passes_of_their_own_save_the_same(models):
    prompt, options = prompt_of(13), {"max_new_tokens": 19, "block_length": 8}
    merged = decode(models["sdar"], [prompt], **options)
    apart = decode(models["sdar"], [prompt], compatible="lmdeploy", **options)
    found = rows(apart, [prompt])[0]
    assert len(found) == 32 and found[:32] == rows(merged, [prompt])[0]
    assert apart.forwards[0] == merged.forwards[0] + 1 + 3  # a prefill, and three blocks


def test_an_end_in_the_prompt_ends_nothing(models):
    prompt = prompt_of(6)
    options = {"max_new_tokens": 10, "block_length": 8, "early_stop": True}
    out = decode(models["sdar"], [prompt], eos_token_id=prompt[:1], **options)
    assert out.finish_reason == ["length"]
    want = decode(models["sdar"], [prompt], **{**options, "early_stop": False})
    assert rows(out, [prompt]) == rows(want, [prompt])


def test_an_end_behind_the_result_is_no_stop(models):
    options = {"max_new_tokens": 9, "block_length": 8}
    for seed in range(20):
        prompt = prompt_of(5, seed)
        whole = decode(models["sdar"], [prompt], compatible="lmdeploy", **options)
        *text, last = rows(whole, [prompt])[0][5:]
        if last not in text:
            break
    out = decode(models["sdar"], [prompt], early_stop=True, eos_token_id=last, **options)
    assert out.finish_reason == ["length"]
    assert rows(out, [prompt])[0][5:] == text[:9]


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_that_no_mask_precedes_ends_the_text(models, kind):
    prompt, options = prompt_of(13), {"max_new_tokens": 40, "block_length": 16}
    whole = decode(models[kind], [prompt], trace=True, **options)
    text = rows(whole, [prompt])[0]
    end = text[20]
    at = text.index(end, 13)
    stopped = decode(models[kind], [prompt], early_stop=True, eos_token_id=end, **options)
    assert stopped.finish_reason == ["stop"]
    assert rows(stopped, [prompt])[0][: at + 1] == text[: at + 1]
    assert set(rows(stopped, [prompt])[0][at + 1 :]) <= {END}
    assert stopped.forwards[0] < whole.forwards[0]


def test_streams_callbacks_and_traces(models):
    prompt, options = prompt_of(13), {"max_new_tokens": 19, "block_length": 8}
    want = rows(decode(models["sdar"], [prompt], **options), [prompt])[0]
    seen, blocks = [], []

    class Streamer:
        def put(self, value):
            blocks.extend(value.flatten().tolist())

        def end(self):
            blocks.append("end")

    def callback(model, step, timestep, tensors):
        seen.append(tensors["block"].shape[1])
        return {}

    more = {"streamer": Streamer(), "callback_on_step_end": callback, "trace": True}
    for mode in ({}, {"compatible": "lmdeploy"}):
        seen.clear()
        blocks.clear()
        out = decode(models["sdar"], [prompt], **options, **more, **mode)
        found = rows(out, [prompt])[0]
        assert blocks == [*found, "end"] and found[:32] == want
        commits = sum(1 for event in out.trace.events if event["positions"])
        assert len(seen) >= commits and set(seen) == {3, 8}


@pytest.mark.parametrize(
    "options, words",
    [
        ({"suffix": dpad.Suffix("gaussian")}, "suffix = .*block-causal"),
        ({"kept_suffix": [[1]]}, "kept_suffix is given: .*block-causal"),
        ({"sub_block_length": 3}, "sub_block_length = 3 does not divide block_length = 8"),
        ({"sub_block_length": 4, "steps": 8, "confidence_threshold": None}, "and steps = 8"),
        ({"alg": "confidence_threshold"}, "alg = 'confidence_threshold': .*low_confidence_dyn"),
        ({"refresh": "recent"}, "refresh = 'recent': .*block-causal"),
        ({"compatible": "llada"}, "compatible = 'llada' is for full attention"),
        ({"generation_logits_hook_func": print}, "generation_logits_hook_func"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(models, options, words):
    with pytest.raises(ValueError, match=words):
        decode(models["sdar"], [prompt_of(5)], max_new_tokens=8, block_length=8, **options)


def test_defaults(models):
    with dpad.patch(models["sdar"]) as handle:
        out = models["sdar"].generate([prompt_of(5)], max_new_tokens=6, trace=True)
        assert "prefix" in str(handle)
    assert out.forwards[0] == 7  # blocks of 4, one token per pass: the last one is cut off
    assert out.sequences.shape == (1, 11)
    assert dpad.supports(models["sdar"])
