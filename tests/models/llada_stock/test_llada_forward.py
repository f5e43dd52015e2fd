"""The patched forward and decoding on a double of LLaDA's released remote code."""

import pytest
import torch

import dpad
from dpad.models import hf
from tests.doubles import remote
from tests.generation import test_golden
from tests.generation.common import META, assert_close, logits, pad
from tests.models.common import spread_out


def random_model(revision=2, **changes):
    """A double with other configuration fields and spread-out random weights."""
    return spread_out(remote.llada_model({**META["config"], **changes}, revision))


# --- the double itself ---------------------------------------------------------------------------


def test_double_has_the_traits_that_adapters_meet(stock, revision):
    inner, block = stock.model, stock.model.transformer.blocks[0]
    assert stock.config is not inner.config
    assert block.config is inner.config
    caches = {
        id(inner._LLaDAModel__cache),
        id(block._LLaDABlock__cache),
        id(block._LLaDALlamaBlock__cache),
        id(block.rotary_emb._RotaryEmbedding__cache),
    }
    assert len(caches) == 1
    assert not list(stock.buffers())
    assert not hasattr(stock, "all_tied_weights_keys")
    assert hasattr(inner, "get_bidirectional_attention_bias") == (revision == 2)
    with pytest.raises(AssertionError):
        stock(torch.tensor([[1]]), use_cache=True)


def test_revisions_are_distinct_classes_of_one_name(weights):
    one, two = (remote.llada(n).LLaDAModelLM for n in (1, 2))
    assert one is not two
    assert one.__name__ == two.__name__ == "LLaDAModelLM"


def test_mask_moves_the_stock_logits_in_revision_2_only(stock, revision):
    ids, mask = pad([[5, 6, 7, 8], [9, 10]], "left")
    moved = (logits(stock, ids, attention_mask=mask) - logits(stock, ids))[1].abs().max()
    assert (moved > 0.1) == (revision == 2)
    ones = torch.ones_like(ids)
    assert logits(stock, ids, attention_mask=ones).equal(logits(stock, ids))


# --- the patched forward -------------------------------------------------------------------------


@pytest.mark.parametrize("side", (None, "left", "right"))
@pytest.mark.parametrize("length", (1, 7, 64))
def test_forward_is_the_stock_one(stock, side, length):
    prompts = [list(range(20, 20 + max(1, n))) for n in (length, length - length // 3, length)]
    ids, mask = pad(prompts, side or "left")
    given = {} if side is None else {"attention_mask": mask}
    want = logits(stock, ids, **given)
    with dpad.patch(stock):
        assert_close(logits(stock, ids, **given), want)
    assert logits(stock, ids, **given).equal(want)


@pytest.mark.parametrize(
    "changes",
    (
        {"n_kv_heads": 2},
        {"n_kv_heads": None, "multi_query_attention": True},
        {"weight_tying": True, "scale_logits": True},
        {"include_qkv_bias": True},
        {"include_bias": True, "bias_for_layer_norm": False},
        {"mlp_hidden_size": None, "mlp_ratio": 3},
    ),
    ids=lambda c: "+".join(c),
)
def test_forward_of_other_configurations(changes, ids):
    model = random_model(**changes)
    want = logits(model, ids)
    with dpad.patch(model):
        assert_close(logits(model, ids), want)


@pytest.mark.parametrize("full", (True, False))
def test_forward_in_bfloat16_is_as_near_to_float32_as_the_stock_one(ids, full):
    model = random_model(rope_full_precision=full)
    exact = logits(model, ids)
    model.to(torch.bfloat16)
    stock_error = (logits(model, ids).float() - exact).abs().max()
    with dpad.patch(model):
        error = (logits(model, ids).float() - exact).abs().max()
    assert error <= 2 * stock_error


def test_revision_1_ignores_the_mask_patched_or_not(weights):
    model = remote.llada_model(META["config"], 1, weights)
    ids, mask = pad([[5, 6, 7, 8], [9, 10]], "right")
    with dpad.patch(model) as handle:
        assert logits(model, ids, attention_mask=mask).equal(logits(model, ids))
        assert not handle.adapter.honours_mask


def test_embeddings_as_input_are_not_overwritten(stock, ids):
    embedded = stock.model.transformer.wte(ids).detach()
    before = embedded.clone()
    want = logits(stock, None, inputs_embeds=embedded)
    with dpad.patch(stock):
        assert_close(logits(stock, None, inputs_embeds=embedded), want)
    assert embedded.equal(before)


def test_what_the_operators_do_not_serve_runs_the_stock_forward(stock, ids):
    bias = torch.randn(1, 1, 37, 37, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = stock(ids, output_hidden_states=True)
        biased, plain = stock(ids, attention_bias=bias), stock(ids, return_dict=False)
        with dpad.patch(stock):
            got = stock(ids, output_hidden_states=True)
            assert all(a.equal(b) for a, b in zip(got.hidden_states, states.hidden_states))  # noqa: B905
            assert stock(ids, attention_bias=bias).logits.equal(biased.logits)
            assert stock(ids, return_dict=False)[0].equal(plain[0])
            with pytest.raises(ValueError, match="output_attentions"):
                stock(ids, output_attentions=True)
            with pytest.raises(AssertionError):
                stock(ids, use_cache=True)


def test_gradients_flow_through_the_stock_forward(stock, ids):
    stock(ids).logits.sum().backward()
    want = stock.model.transformer.wte.weight.grad.clone()
    stock.zero_grad()
    with dpad.patch(stock):
        stock(ids).logits.sum().backward()
    assert stock.model.transformer.wte.weight.grad.equal(want)


def test_dropout_in_training_mode_runs_the_stock_forward(ids):
    model = random_model(residual_dropout=0.3).train()

    def drawn():
        torch.manual_seed(11)
        return logits(model, ids)

    want = drawn()
    with dpad.patch(model):
        assert drawn().equal(want)
        model.eval()
        assert not logits(model, ids).equal(want)


# --- decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("trace", test_golden.traces("llada"))
def test_published_trace(weights, trace):
    test_golden.replay(remote.llada_model(META["config"], 2, weights), trace)


def test_generate_of_both_revisions_is_the_native_class_s(weights):
    native = hf.LLaDAModelLM(hf.LLaDAConfig(**META["config"])).float()
    native.load_state_dict(weights)
    ids, mask = pad([[5, 6, 7, 8], [9, 10]], "left")
    options = {"max_new_tokens": 20, "block_length": 8, "seed": 1, "eos_token_id": META["eos_id"]}
    options |= {"mask_token_id": META["mask_id"], "suffix": dpad.Suffix("window", window=5)}
    want = dpad.generate(native.eval(), ids, attention_mask=mask, **options)
    for revision in (1, 2):
        model = remote.llada_model(META["config"], revision, weights)
        with dpad.patch(model):
            assert model.generate(ids, attention_mask=mask, **options).equal(want)
