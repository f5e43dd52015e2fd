"""Identities between modes that must hold token for token (float32)."""

import pytest
import torch

import dpad
from tests.generation.common import EOS_ID, MASK_ID, pad

pytestmark = pytest.mark.once

NEW, BLOCK = 40, 16  # two blocks and a shorter last one
RULES = {
    "greedy": {},
    "quota": {"steps": 15},
    "threshold": {"threshold": 0.6},
    "factor": {"factor": 1.5},
    "entropy": {"entropy_bound": 1.0},
}
FULL = {"suffix": dpad.Suffix("all"), "early_stop": False, "compatible": "llada"}
THIN = {"suffix": dpad.Suffix("gaussian", window=24, decay=3.0, scale=1.6, near=2)}


def ordinary(model, prompt, accept):
    """The semi-autoregressive decoder on the stock forward: full canvas, float64 soft-max.

    `accept(ranked scores)` says how many of the best positions are committed, scores being
    (probability, entropy) pairs in the rule's order.
    """
    canvas = torch.tensor([prompt + [MASK_ID] * NEW])
    starts = range(len(prompt), canvas.shape[1], BLOCK)
    for number, start in enumerate(starts):
        end, step = min(start + BLOCK, canvas.shape[1]), 0
        while (canvas[0, start:end] == MASK_ID).any():
            with torch.no_grad():
                logits = model(canvas).logits[0, start:end].double()
            p = torch.softmax(logits, -1)
            logits[:, MASK_ID] = float("-inf")
            token = logits.argmax(-1)
            score = p.gather(1, token[:, None])[:, 0]
            masked = (canvas[0, start:end] == MASK_ID).nonzero()[:, 0]
            chosen = accept(score[masked], torch.special.entr(p).sum(-1)[masked], number, step)
            canvas[0, start + masked[chosen]] = token[masked[chosen]]
            step += 1
    return canvas[0].tolist()


def accept_greedy(p, entropy, block, step):
    return p.argmax()[None]


def accept_quota(p, entropy, block, step):
    # 15 steps in 3 blocks of 16, 16 and 8: 5 steps each, 16 = 4 + 3 x 4, 8 = 2 x 3 + 1 x 2
    schedule = [[4, 3, 3, 3, 3], [4, 3, 3, 3, 3], [2, 2, 2, 1, 1]][block]
    return p.argsort(descending=True, stable=True)[: schedule[step]]


def accept_threshold(p, entropy, block, step):
    return torch.unique(torch.cat((p.argmax()[None], (p >= 0.6).nonzero()[:, 0])))


def accept_factor(p, entropy, block, step):
    order = p.argsort(descending=True, stable=True)
    m = 1
    while m < len(p) and (m + 2) * (1 - float(p[order[m]])) <= 1.5:
        m += 1
    return order[:m]


def accept_entropy(p, entropy, block, step):
    order = entropy.argsort(stable=True)
    m = 1
    while m < len(p) and float(entropy[order[:m]].sum()) <= 1.0:
        m += 1
    return order[:m]


ACCEPT = {
    "greedy": accept_greedy,
    "quota": accept_quota,
    "threshold": accept_threshold,
    "factor": accept_factor,
    "entropy": accept_entropy,
}


def decode(model, ids, mask=None, **options):
    options = {"max_new_tokens": NEW, "block_length": BLOCK, "seed": 5, **options}
    return dpad.generate(model, ids, attention_mask=mask, mask_id=MASK_ID, **options)


@pytest.mark.parametrize("rule", RULES)
def test_everything_kept_is_the_ordinary_decoder(llada, prompts, rule):
    expected = [ordinary(llada, p, ACCEPT[rule]) for p in prompts]
    ids, mask = pad(prompts, "left")
    out = decode(llada, ids, mask, **FULL, **RULES[rule])
    for row, prompt in enumerate(prompts):
        assert out[row].tolist()[-len(prompt) - NEW :] == expected[row]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_threshold_above_one_and_factor_zero_are_one_token_per_step(llada, prompts, cache):
    ids, mask = pad(prompts, "right")
    options = {**FULL, **THIN, "cache": cache}
    single = decode(llada, ids, mask, **options, return_dict_in_generate=True)
    assert single.forwards.tolist() == [NEW] * len(prompts)
    assert torch.equal(single.sequences, decode(llada, ids, mask, **options, threshold=1.5))
    assert torch.equal(single.sequences, decode(llada, ids, mask, **options, factor=0.0))


@pytest.mark.parametrize("suffix", [dpad.Suffix("all"), THIN["suffix"], dpad.Suffix("none")])
def test_caches_with_one_pass_per_block_are_no_cache(llada, prompts, suffix):
    ids, mask = pad(prompts, "left")
    options = {**FULL, "suffix": suffix, "threshold": 0.0}
    plain = decode(llada, ids, mask, cache="none", **options)
    for cache in ("prefix", "dual"):
        assert torch.equal(plain, decode(llada, ids, mask, cache=cache, **options))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_row_alone_is_the_row_in_a_ragged_batch(llada, prompts, side, cache, temperature):
    keys = [11, -3, 2**40, 0, 7]
    ids, mask = pad(prompts, side)
    options = {**THIN, "cache": cache, "threshold": 0.55, "temperature": temperature}
    together = decode(llada, ids, mask, row_keys=keys, **options)
    for row, prompt in enumerate(prompts):
        alone = decode(llada, [prompt], row_keys=[keys[row]], **options)
        assert together[row, -NEW:].tolist() == alone[0, -NEW:].tolist()


def test_micro_batches_do_not_change_results(llada, prompts):
    ids, mask = pad(prompts, "left")
    options = {**THIN, "cache": "dual", "threshold": 0.6, "trace": True}
    whole = decode(llada, ids, mask, **options)
    for size in (1, 2, 4):
        parts = decode(llada, ids, mask, micro_batch=size, **options)
        assert torch.equal(whole.sequences, parts.sequences)
        assert torch.equal(whole.forwards, parts.forwards)
        for a, b in zip(whole.trace.events, parts.trace.events, strict=True):
            assert (a["row"], a["positions"], a["kept"]) == (b["row"], b["positions"], b["kept"])


def test_batch_invariant_is_bitwise_batch_one(llada, prompts):
    ids, mask = pad(prompts, "left")
    options = {**THIN, "threshold": 0.6, "trace": True}
    batch = decode(llada, ids, mask, batch_invariant=True, **options)
    for row, prompt in enumerate(prompts):
        alone = decode(llada, [prompt], row_keys=[row], **options)
        events = [e for e in batch.trace.events if e["row"] == row]
        for a, b in zip(events, alone.trace.events, strict=True):
            assert a["confidence"] == b["confidence"]


def test_supplied_kept_sets_replay_a_run(llada, prompts):
    ids, mask = pad(prompts, "left")
    first = decode(llada, ids, mask, **THIN, threshold=0.6, return_dict_in_generate=True)
    again = decode(llada, ids, mask, seed=99, threshold=0.6, kept_suffix=first.kept_suffix)
    assert torch.equal(first.sequences, again)


def test_supplied_noise_replays_a_run(llada, prompts):
    ids, mask = pad(prompts, "left")
    noise = torch.Generator().manual_seed(1)
    drawn = -torch.log(-torch.log(torch.rand(4, 64, 320, generator=noise, dtype=torch.float64)))

    def supplied(rows, positions, vocab):
        return drawn[:1, positions % 64].reshape(-1, vocab)

    options = {"temperature": 1.0, "threshold": 0.6, "noise": supplied}
    assert torch.equal(
        decode(llada, ids, mask, **options), decode(llada, ids, mask, seed=8, **options)
    )


def test_early_stop_changes_nothing_before_the_end(llada, prompts):
    ids, mask = pad(prompts, "left")
    full = decode(llada, ids, mask, **{**FULL, "compatible": None}, threshold=0.6)
    end = int(full[0, ids.shape[1] + 3])  # an id that the model really produces
    options = {"suffix": dpad.Suffix("all"), "threshold": 0.6, "eos_token_id": end}
    kept = decode(llada, ids, mask, early_stop=False, **options)
    stopped = decode(llada, ids, mask, early_stop=True, return_dict_in_generate=True, **options)
    assert torch.equal(kept, stopped.sequences)
    assert "stop" in stopped.finish_reason
    assert EOS_ID in stopped.sequences[0, ids.shape[1] + 4 :]
