"""Rules of the published decoders that their traces show seldom or never, restated here."""

import pytest
import torch

import dpad
from tests.generation.common import MASK_ID

pytestmark = pytest.mark.once

PROMPT = [5, 17, 200, 41, 8, 99, 23]
NEW = 16
FIRST = len(PROMPT)


def decode(model, **options):
    """One block on the whole canvas by default, with a trace."""
    options = {"block_length": NEW, "cache": "none", "early_stop": False, **options}
    options.setdefault("suffix", dpad.Suffix("all"))
    return dpad.generate(model, [PROMPT], max_new_tokens=NEW, trace=True, **options)


def logits_of_masks(model, shift):
    """Logits ``[NEW, vocab]`` of the masked canvas, each at the position that it predicts."""
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT + [MASK_ID] * NEW])).logits[0]
    return logits[FIRST - shift : FIRST - shift + NEW].double()


def first_commit(out):
    """Position -> confidence of the first forward that commits."""
    event = next(e for e in out.trace.events if e["positions"])
    return dict(zip(event["positions"], event["confidence"], strict=True))


@pytest.mark.parametrize("compatible", ["fast-dllm-dream", "dpad-dream"])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_dream_in_blocks_ranks_by_entropy(dream, compatible, cache):
    """Whatever `alg` a fixed quota names; dpad's own decoding does as it is told."""
    options = {"compatible": compatible, "block_length": 8, "steps": 16, "cache": cache}
    algs = ("entropy", "maskgit_plus", "topk_margin", "origin")
    same = [decode(dream, alg=alg, **options).sequences.tolist() for alg in algs]
    assert all(found == same[0] for found in same)
    del options["compatible"]
    own = {str(decode(dream, alg=alg, seed=1, **options).sequences.tolist()) for alg in algs}
    assert len(own) == len(algs)


def test_dream_in_blocks_commits_the_least_entropy_first(dream):
    """Step i of n takes floor(m (1 - t_{i+1} / t_i)) of m masks, and step 0 is left out."""
    out = decode(dream, compatible="fast-dllm-dream", alg="maskgit_plus", steps=4)
    probability = logits_of_masks(dream, 1).softmax(-1)
    entropy = -(probability * (probability + 1e-10).log()).sum(-1)
    times = torch.linspace(1, 1e-3, 5)
    count = int(NEW * (1 - times[2] / times[1]))
    expected = entropy.argsort()[:count] + FIRST
    assert sorted(first_commit(out)) == sorted(expected.tolist())
    assert int(out.forwards.max()) == 3


@pytest.mark.parametrize("compatible", ["fast-dllm-dream", "dpad-dream"])
def test_threshold_is_rounded_like_the_confidence(dream, compatible):
    """Half precision: a threshold a little above a confidence rounds onto it, and it commits."""
    dream = dream.to(torch.bfloat16)
    everything = first_commit(decode(dream, compatible=compatible, threshold=0.0))
    assert len(everything) == NEW
    ranked = sorted(set(everything.values()), reverse=True)
    level = ranked[2]
    above = level * (1 + 2**-10)
    assert torch.tensor(above, dtype=torch.bfloat16).item() == level < above
    found = first_commit(decode(dream, compatible=compatible, threshold=above))
    assert set(found) == {p for p, c in everything.items() if c >= level}
    # Without the rounding nothing is moved onto the level: what is below stays.
    exact = first_commit(decode(dream, threshold=0.0))
    found = first_commit(decode(dream, threshold=above))
    assert set(found) == {p for p, c in exact.items() if c >= above}


def end_ids_of(model):
    """The predictions of two positions: an end-of-text that is frequent, and an end-of-turn."""
    tokens = logits_of_masks(model, 0).argmax(-1)
    text = int(tokens.mode().values)
    barred = logits_of_masks(model, 0)
    barred[:, text] = -torch.inf
    return text, int(barred.argmax(-1).mode().values)


@pytest.mark.parametrize("with_confidence", [False, True])
def test_llada_bars_end_of_text_and_keeps_end_of_turn(llada, with_confidence):
    """`logits_eos_inf` is about one id, `confidence_eos_eot_inf` about both."""
    text, turn = end_ids_of(llada)
    # One step: the predictions of the masked canvas, all of them with their confidences.
    options = {"eos_id": [text, turn], "logits_eos_inf": True, "steps": 1}
    options["confidence_eos_eot_inf"] = with_confidence
    out = decode(llada, compatible="llada", **options)
    logits = logits_of_masks(llada, 0)
    logits[:, text] = -torch.inf
    token = logits.argmax(-1)
    assert turn in token
    if with_confidence:
        logits[:, turn] = -torch.inf
    confidence = logits.softmax(-1).gather(1, token[:, None])[:, 0]
    assert out.sequences[0, FIRST:].tolist() == token.tolist()
    wanted = dict(enumerate(confidence.tolist(), FIRST))
    assert first_commit(out) == pytest.approx(wanted, abs=1e-5)
    own = decode(llada, **options).sequences[0, FIRST:]
    assert text not in own and turn not in own


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_published_decoders_pass_the_last_position_of_the_model(request, family):
    """dpad's own decoding refuses what the model was not trained on."""
    model = request.getfixturevalue(family)
    names = {"llada": "max_sequence_length", "dream": "max_position_embeddings"}
    setattr(model.config, names[family], len(PROMPT) + NEW - 1)
    with pytest.raises(ValueError, match=f"{len(PROMPT) + NEW} positions"):
        decode(model, seed=0)
    out = decode(model, compatible=family, steps=NEW, seed=0)
    assert not (out.sequences == MASK_ID).any()
