"""The patched forward and decoding on a double of Dream's released remote code."""

import copy

import pytest
import torch
import transformers

import dpad
from dpad.models import hf
from tests.doubles import dream_stock
from tests.doubles.dream_stock_generation import DreamGenerationConfig
from tests.generation import test_golden
from tests.generation.common import DREAM, assert_close, logits, pad
from tests.models.common import V5
from tests.models.dream_stock.common import IDS

# --- the double itself ---------------------------------------------------------------------------


def test_double_has_the_traits_that_adapters_meet(stock, ids):
    assert [c.__name__ for c in type(stock).__mro__][:3] == [
        "DreamModel",
        "DreamGenerationMixin",
        "DreamPreTrainedModel",
    ]
    buffers = [name for name, _ in stock.named_buffers()]
    assert "model.rotary_emb.inv_freq" in buffers and len(buffers) == 1 + 3
    assert not any("inv_freq" in name for name in stock.state_dict())
    out = stock(ids, "full", None, use_cache=True)
    assert "past_key_values" not in out and out.logits.equal(stock(ids).logits)
    with pytest.raises((RuntimeError, ValueError)):  # a 2-D mask is not for this class
        stock(ids, torch.ones_like(ids))


@pytest.mark.skipif(not V5, reason="transformers 4.57 builds the released code")
def test_released_code_cannot_be_built_on_transformers_5():
    with pytest.raises(KeyError, match="default"):
        dream_stock.DreamModel(dream_stock.DreamConfig(**DREAM["config"]))


# --- the patched forward -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    ({}, {"num_key_value_heads": 2}, {"num_key_value_heads": 1}, {"hidden_size": 56 * 4}),
    ids=lambda c: "+".join(c) or "as released",
)
def test_forward_is_the_stock_one(build, ids, changes):
    if "hidden_size" in changes:
        changes |= {"num_attention_heads": 28, "num_key_value_heads": 4}
    model = build(**changes)
    want = logits(model, ids)
    with dpad.patch(model):
        for args in ((ids,), (ids, "full"), (ids, "full", None)):
            assert_close(logits(model, *args), want)
        embedded = model.get_input_embeddings()(ids).detach()
        assert_close(logits(model, inputs_embeds=embedded), want)
        assert_close(logits(model, ids, num_logits_to_keep=4), want[:, -4:])
    assert logits(model, ids).equal(want)


@pytest.mark.parametrize("side", ("left", "right"))
def test_masks(stock, side):
    """2-D masks, which the stock class does not take, are its 4-D ones at the real positions."""
    ids, mask = pad([list(range(20, 31)), [60, 61, 62]], side)
    square = mask.bool()[:, None, None, :]
    want = logits(stock, ids, square)
    plain = logits(stock, ids)
    with dpad.patch(stock):
        assert logits(stock, ids, square).equal(want)
        assert_close(logits(stock, ids, mask)[mask.bool()], want[mask.bool()])
        assert_close(logits(stock, ids, torch.ones_like(mask)), plain)
    assert (want - plain)[mask.bool()].abs().max() > 0.1


def test_what_the_operators_do_not_serve_runs_the_stock_forward(stock, ids):
    asked = (
        {"position_ids": torch.arange(21).flip(0)[None]},
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"labels": ids},
        {"use_cache": True},
        {"past_key_values": transformers.DynamicCache()},
        {"return_dict": False},
    )
    with torch.no_grad():
        want = [stock(ids, **copy.deepcopy(kwargs)) for kwargs in asked]
        with dpad.patch(stock):
            got = [stock(ids, **copy.deepcopy(kwargs)) for kwargs in asked]
            with pytest.raises(ValueError, match="exactly one"):
                stock()
    for a, b in zip(got[:-1], want[:-1], strict=True):
        assert list(a) == list(b) and a.logits.equal(b.logits)
    assert isinstance(got[-1], tuple) and got[-1][0].equal(want[-1][0])


def test_gradients_are_the_stock_ones(stock, ids):
    def gradients():
        stock.zero_grad()
        stock(ids, "full", labels=ids).loss.backward()
        return [p.grad.clone() for p in stock.parameters()]

    want = gradients()
    with dpad.patch(stock):
        got = gradients()
    assert all(a.equal(b) for a, b in zip(got, want, strict=True))


# --- decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("trace", test_golden.traces("dream"))
def test_published_trace(stock, trace):
    test_golden.replay(stock, trace)


@pytest.mark.parametrize("cache", ("none", "prefix", "dual"))
def test_generate_is_the_native_class_s(stock, dream_weights, cache):
    native = hf.DreamModel(hf.DreamConfig(**DREAM["config"])).float().eval()
    native.load_state_dict(dream_weights)
    ids, mask = pad([[5, 6, 7, 8], [9, 10]], "left")
    options = {"max_new_tokens": 20, "block_length": 8, "seed": 1, "cache": cache}
    options |= {"mask_token_id": DREAM["mask_id"], "suffix": dpad.Suffix("window", window=5)}
    want = dpad.generate(native, ids, attention_mask=mask, **options)
    with dpad.patch(stock):
        assert stock.generate(ids, attention_mask=mask, **options).equal(want)


@pytest.mark.parametrize("padded", (False, True), ids=("whole", "padded"))
@pytest.mark.parametrize("alg", ("maskgit_plus", "topk_margin", "entropy"))
def test_diffusion_generate_decides_as_before(stock, alg, padded):
    ids, mask = pad([list(range(20, 31)), [60, 61, 62]], "left")
    if not padded:
        ids, mask = ids[:1], None
    config = DreamGenerationConfig(alg=alg, steps=16, max_new_tokens=16, **IDS)
    want = stock.diffusion_generate(ids, config, attention_mask=mask)
    with dpad.patch(stock):
        assert stock.diffusion_generate(ids, config, attention_mask=mask).equal(want)
    assert stock.diffusion_generate(ids, config, attention_mask=mask).equal(want)
    assert DREAM["mask_id"] not in want
