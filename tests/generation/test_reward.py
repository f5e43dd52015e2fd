"""A reward in the loop, on rewards whose answer is known."""

import pytest
import torch

import dpad
from tests.generation.common import MASK_ID, pad

pytestmark = pytest.mark.once

NEW, WANTED = 16, 42
BASE = {"alg": "ancestral", "temperature": 1.0, "steps": 16, "early_stop": False, "seed": 3}
BASE |= {"suffix": "all", "max_new_tokens": NEW, "block_length": NEW}


def generate(model, prompts, **options):
    batch = dict(zip(("input_ids", "attention_mask"), pad(prompts, "left"), strict=True))
    return dpad.generate(model, **batch, return_dict_in_generate=True, **{**BASE, **options})


def answers(out):
    return out.sequences[:, -NEW:]


def likes_one(tokens, log_probs):
    """The gradient is 1 at the wanted id of every position, and 0 elsewhere."""
    return log_probs[:, WANTED]


def counts(tokens, log_probs):
    """How many tokens there are of even ids."""
    return 100.0 * ((tokens % 2 == 0) & (tokens != MASK_ID)).sum()


def test_without_strength_and_candidates_it_is_ancestral(model, prompts):
    reward = dpad.Reward(likes_one, candidates=1, first_strength=0, last_strength=0)
    for options in ({}, {"top_p": 0.9, "block_length": 8}, {"cache": "dual", "temperature": 0.7}):
        plain = generate(model, prompts, **options)
        out = generate(model, prompts, reward=reward, **options)
        assert torch.equal(out.sequences, plain.sequences)
        assert torch.equal(out.forwards, plain.forwards)


def test_the_gradient_decides_the_first_part(llada, prompts):
    """With log p + 30 at one id, every mask that falls in the first half becomes it."""
    out = generate(llada, prompts, reward=dpad.Reward(likes_one, candidates=1), trace=True)
    steps = {}
    for event in out.trace.events:
        steps.setdefault(event["forward"] < 8, []).extend(event["tokens"])
    assert set(steps[True]) == {WANTED} and len(steps[True]) > 20
    assert set(steps[False]) != {WANTED}
    # Of a score per position the masks count alone, of a sum everything does: no difference here.
    total = dpad.Reward(lambda tokens, log_probs: log_probs[:, WANTED].sum(), candidates=1)
    assert torch.equal(generate(llada, prompts, reward=total).sequences, out.sequences)


def test_the_tilt_is_what_the_formula_says(llada, prompts):
    """log p + h clip(g) with h from 2 to 4, against the steps' own gradients."""
    scale, seen = torch.linspace(-3, 3, 320), []

    def score(tokens, log_probs):
        seen.append((tokens.clone(), log_probs.detach().clone()))
        return (log_probs.exp() @ scale).sum()

    reward = dpad.Reward(score, candidates=1, first_strength=2.0, last_strength=4.0)
    generate(llada, prompts[:1], reward=reward)
    assert len(seen) == 8
    tokens, log_probs = seen[0]
    start = len(prompts[0])
    assert (tokens[start:] == MASK_ID).all() and tokens[:start].tolist() == prompts[0]
    known = log_probs[:start]
    assert (known.argmax(-1) == tokens[:start]).all() and (known.max(-1).values == 0).all()
    with torch.no_grad():
        whole = torch.cat((tokens[:start], torch.full((NEW,), MASK_ID)))[None]
        logits = llada(whole).logits[0, start:].float()
    logits[:, MASK_ID] = -torch.inf
    assert (log_probs[start:].exp() - logits.softmax(-1)).abs().max() < 1e-5
    # The gradient in log p is p times the scale, cut to [-1, 1].
    p = logits.double().softmax(-1)
    tilted = p.log() + 2.0 * (p * scale.double()).clamp(-1, 1)
    rewarded = dpad.generation.reward.Rewarded(reward)
    q = type("Q", (), {"mask_id": MASK_ID})()
    got = rewarded._tilted(q, logits.log_softmax(-1), torch.arange(start, start + NEW), tokens, 0.0)
    finite = p > 0
    assert (got[finite] - tilted[finite]).abs().max() < 1e-4


def test_the_best_candidate_is_taken(llada, prompts):
    """With scores far apart the choice is the greatest, so more candidates give more even ids."""
    evens = []
    for count in (1, 4, 16):
        reward = dpad.Reward(counts, share=1.0, candidates=count)
        tokens = answers(generate(llada, [prompts[0]] * 8, reward=reward))
        evens.append(float((tokens % 2 == 0).double().mean()))
    assert evens[0] + 0.15 < evens[1] < evens[2]


def test_equal_scores_choose_any(llada, prompts):
    """A score that says nothing gives samples of the same distribution, and other ones."""
    reward = dpad.Reward(lambda tokens, log_probs: torch.zeros(()), share=1.0)
    out, plain = (generate(llada, prompts, **more) for more in ({"reward": reward}, {}))
    assert not torch.equal(out.sequences, plain.sequences)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_alone_as_in_a_batch_and_an_engine(model, prompts, cache):
    options = {**BASE, "cache": cache, "block_length": 8, "top_p": 0.9}
    options |= {"dual": {"cfg_scale": 0.7}, "prefix": {"refresh": "recent"}}.get(cache, {})
    reward = dpad.Reward(lambda tokens, lp: lp[:, WANTED] + (tokens == WANTED), last_strength=35.0)
    together = generate(model, prompts, reward=reward, **options)
    with dpad.Engine(model, max_sequences=3) as engine:
        requests = [
            engine.submit(p, row_key=i, reward=reward, **options) for i, p in enumerate(prompts)
        ]
        for row, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
            alone = generate(model, [prompt], row_keys=[row], reward=reward, **options)
            assert torch.equal(answers(request.result()), answers(alone))
            assert torch.equal(answers(together)[row], answers(alone)[0])


def test_processors_come_first(llada, prompts):
    from transformers import SuppressTokensLogitsProcessor

    barred = [SuppressTokensLogitsProcessor([WANTED], device="cpu")]
    out = generate(llada, prompts, reward=likes_one, logits_processor=barred)
    assert not (answers(out) == WANTED).any()


@pytest.mark.parametrize(
    ("reward", "options", "error", "words"),
    [
        (likes_one, {"alg": "maskgit_plus"}, ValueError, "reward is given and alg"),
        (likes_one, {"alg": "ancestral", "remask": "cap"}, ValueError, "remask = Remask"),
        (likes_one, {"noise": lambda *_: None}, ValueError, "reward and noise"),
        ("good", {}, TypeError, "Reward.score = 'good'"),
        (lambda tokens, lp: 1.0, {}, ValueError, "reward returned float"),
        (lambda tokens, lp: lp.sum() * torch.nan, {}, ValueError, "reward returned NaN"),
        (dpad.Reward(lambda *_: torch.tensor(torch.nan), share=1), {}, ValueError, "returned NaN"),
        (lambda tokens, lp: torch.zeros(2), {}, ValueError, r"reward returned \[2\]"),
        (lambda tokens, lp: torch.zeros(()), {}, ValueError, "does not depend on log_probs"),
    ],
)
def test_what_cannot_be_is_refused(llada, prompts, reward, options, error, words):
    with pytest.raises(error, match=words):
        generate(llada, prompts, reward=reward, **options)


def test_bad_numbers_are_named():
    for options, words in (({"share": 2}, "Reward.share = 2"), ({"candidates": 0}, "candidates")):
        with pytest.raises(ValueError, match=words):
            dpad.Reward(likes_one, **options)
