"""`share_prefix=True`: K/V of common whole blocks of prompts is copied, and changes no token."""

import pytest

import dpad
from tests.generation.test_block_decoding import KINDS, MASK_ID, load, prompt_of

OPTIONS = {
    "max_new_tokens": 20, "block_length": 4, "confidence_threshold": 0.3, "early_stop": False,
    "mask_token_id": MASK_ID, "eos_token_id": 300, "seed": 1, "block_size": None,
}  # fmt: skip
del OPTIONS["block_size"]
SHOTS = prompt_of(41)
# Behind 41 common tokens; shorter than them, ending with a block; with nothing in common; equal.
PROMPTS = [SHOTS + prompt_of(n, seed=5) for n in (3, 6, 11)]
PROMPTS += [SHOTS[:22] + prompt_of(2, seed=6), prompt_of(30, seed=7), PROMPTS[0]]


def model_of(kind):
    model = load(kind)
    setattr(model.config, "block_size" if kind == "sdar" else "bd_size", 4)
    return model


def run(model, rows, share, **changes):
    """(answers and forwards of all prompts in their order, counts)."""
    options = {**OPTIONS, **changes}
    with dpad.Engine(model, max_sequences=rows, max_tokens=2048, share_prefix=share) as engine:
        # The first has its prompt when the others come.
        first = engine.submit(PROMPTS[0], **options)
        engine.step()
        others = [engine.submit(p, **options) for p in PROMPTS[1:]]
        out = [request.result() for request in (first, *others)]
        return [(o.sequences.tolist(), o.forwards.tolist()) for o in out], engine.stats()


@pytest.mark.parametrize("rows", [2, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_forwards_are_the_same_and_fewer_positions_computed(kind, rows):
    model = model_of(kind)
    alone, plain = run(model, rows, False)
    found, shared = run(model, rows, True)
    assert found == alone
    assert plain["shared"] == 0 < shared["shared"]
    assert shared["positions"] == plain["positions"] - shared["shared"]
    if rows == 6:  # all come while the first runs; where the shift needs it, a block less
        blocks = [40, 40, 20, 0, 44] if kind == "sdar" else [40, 40, 20, 0, 40]
        assert shared["shared"] == sum(blocks)


@pytest.mark.parametrize(
    "changes", [{"cache": "none"}, {"cfg_scale": 0.5}, {"compatible": "lmdeploy"}]
)
def test_what_has_no_prefix_to_share(changes):
    model = model_of("sdar")
    found, stats = run(model, 6, True, **changes)
    assert stats["shared"] == 0
    assert found == run(model, 6, False, **changes)[0]


def test_another_block_length_shares_nothing():
    model = model_of("sdar")
    with dpad.Engine(model, max_sequences=2, max_tokens=512, share_prefix=True) as engine:
        first = engine.submit(PROMPTS[0], **OPTIONS)
        engine.step()
        other = engine.submit(PROMPTS[1], **{**OPTIONS, "block_length": 8})
        first.result(), other.result()
        assert engine.stats()["shared"] == 0


def test_full_attention_shares_nothing():
    model, tokenizer = dpad.demo.load()
    ids = tokenizer(dpad.demo.problems(1)[0].prompt)["input_ids"]
    with dpad.Engine(model, max_sequences=2, max_tokens=512, share_prefix=True) as engine:
        first = engine.submit(ids, max_new_tokens=64, cache="prefix", seed=0)
        engine.step()
        other = engine.submit(ids, max_new_tokens=64, cache="prefix", seed=0)
        assert first.result().sequences.tolist() == other.result().sequences.tolist()
        assert engine.stats()["shared"] == 0


def test_other_values_are_refused():
    with pytest.raises(ValueError, match="share_prefix = 'all'"):
        dpad.Engine(dpad.demo.load()[0], share_prefix="all")
