"""The forward of the native LLaDA class: published formulas, padding, refusals, gradients."""

import math

import pytest
import torch
import transformers

from tests.generation.common import logits
from tests.models.small_llada import small_model, tokens


def independent_logits(model, ids):
    """The published formulas in float64 from the state dict; rotation by complex numbers."""
    config = model.config
    state = {name: w.double() for name, w in model.state_dict().items()}
    heads, head_dim = config.n_heads, config.d_model // config.n_heads
    half = head_dim // 2
    frequency = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    turn = torch.polar(
        torch.ones(ids.shape[1], half, dtype=torch.float64),
        torch.arange(ids.shape[1], dtype=torch.float64)[:, None] * frequency,
    )

    def norm(x, name):
        scale = (x**2).mean(-1, keepdim=True) + config.rms_norm_eps
        return x / scale.sqrt() * state[f"model.transformer.{name}.weight"]

    def linear(x, name):
        name = f"model.transformer.{name}"
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0.0)

    def split(x, rotated):
        x = x.unflatten(-1, (-1, head_dim)).transpose(1, 2)
        if rotated:
            z = torch.complex(x[..., :half], x[..., half:]) * turn
            x = torch.cat((z.real, z.imag), dim=-1)
        return x[:, torch.arange(heads) // (heads // x.shape[1])]

    x = state["model.transformer.wte.weight"][ids]
    for i in range(config.n_layers):
        y = norm(x, f"blocks.{i}.attn_norm")
        q, k, v = (split(linear(y, f"blocks.{i}.{n}_proj"), n != "v") for n in "qkv")
        weights = (q @ k.mT / math.sqrt(head_dim)).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"blocks.{i}.attn_out")
        y = norm(x, f"blocks.{i}.ff_norm")
        gate, up = linear(y, f"blocks.{i}.ff_proj"), linear(y, f"blocks.{i}.up_proj")
        x = x + linear(gate * gate.sigmoid() * up, f"blocks.{i}.ff_out")
    return linear(norm(x, "ln_f"), "wte" if config.weight_tying else "ff_out")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n_kv_heads": 4, "include_qkv_bias": True},
        {"n_kv_heads": None, "multi_query_attention": True, "include_bias": True},
        {"weight_tying": True, "mlp_hidden_size": None},
    ],
    ids=["grouped", "qkv_bias", "multi_query_bias", "tied"],
)
def test_forward_follows_the_published_formulas(fields):
    model = small_model(**fields)
    ids = tokens(2, 19)
    expected = independent_logits(model, ids)
    actual = logits(model, ids)
    assert actual.shape == (2, 19, 64)
    assert (actual.double() - expected).abs().max() < 1e-5 * expected.abs().max()


def test_scale_logits_divides_by_the_root_of_the_width():
    model = small_model()
    ids = tokens(1, 7)
    plain = logits(model, ids)
    model.config.scale_logits = True
    torch.testing.assert_close(logits(model, ids), plain / math.sqrt(32))


def test_rope_full_precision_decides_the_dtype_of_the_rotation():
    ids = tokens(1, 48)
    model = small_model(seed=3)
    exact = independent_logits(model, ids)
    errors = []
    for full in (True, False):
        low = small_model(seed=3, rope_full_precision=full).bfloat16()
        low.load_state_dict(model.state_dict())
        errors.append((logits(low, ids).double() - exact).abs().mean())
    assert errors[0] != errors[1]
    assert errors[0] < 0.1 * exact.abs().mean()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_equals_solo_runs(side):
    model = small_model()
    rows = [tokens(1, n, seed=n) for n in (5, 11, 16)]
    ids = torch.full((3, 16), 58)
    mask = torch.zeros(3, 16, dtype=torch.long)
    places = []
    for i, row in enumerate(rows):
        start = 16 - row.shape[1] if side == "left" else 0
        places.append(slice(start, start + row.shape[1]))
        ids[i, places[i]], mask[i, places[i]] = row[0], 1
    for given in (mask, mask.bool(), mask.float()):
        batch = logits(model, ids, attention_mask=given)
        for i, row in enumerate(rows):
            torch.testing.assert_close(
                batch[i, places[i]], logits(model, row)[0], rtol=1e-4, atol=1e-4
            )
    assert not torch.allclose(
        logits(model, ids)[0, places[0]], logits(model, rows[0])[0], atol=1e-2
    )


def test_all_ones_mask_changes_nothing_and_attention_is_bidirectional():
    model = small_model()
    ids = tokens(2, 9)
    plain = logits(model, ids)
    assert torch.equal(logits(model, ids, attention_mask=torch.ones_like(ids)), plain)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 58
    assert not torch.allclose(logits(model, changed)[:, 0], plain[:, 0], atol=1e-3)


def test_attention_bias_hides_what_it_should():
    model = small_model()
    ids = tokens(1, 9)
    visible = torch.ones(1, 1, 9, 9, dtype=torch.bool)
    visible[..., 6:] = False
    expected = logits(model, ids, attention_mask=(torch.arange(9) < 6).long()[None])
    additive = torch.zeros(1, 1, 9, 9).masked_fill(~visible, -torch.inf)
    for bias in (visible, additive):
        actual = logits(model, ids, attention_bias=bias)
        torch.testing.assert_close(actual[:, :6], expected[:, :6], rtol=1e-5, atol=1e-5)


def test_forward_refuses_what_it_cannot_do():
    model = small_model()
    ids = tokens(2, 4)
    for name, value in {
        "past_key_values": (),
        "labels": ids,
        "use_cache": True,
        "output_attentions": True,
    }.items():
        with pytest.raises(ValueError, match=name):
            model(ids, **{name: value})
    with pytest.raises(ValueError, match="exactly one"):
        model()
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \(2, 4\)"):
        model(ids, attention_mask=torch.ones(2, 3))
    with pytest.raises(ValueError, match="row 1 is all padding"):
        model(ids, attention_mask=torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]))
    with pytest.raises(ValueError, match="not both"):
        model(ids, attention_mask=torch.ones(2, 4), attention_bias=torch.zeros(1, 1, 4, 4))


def test_outputs_and_gradients():
    model = small_model()
    ids = tokens(2, 6)
    out = model(ids, output_hidden_states=True)
    assert isinstance(out, transformers.modeling_outputs.CausalLMOutputWithPast)
    assert len(out.hidden_states) == 4
    embedded = model.get_input_embeddings()(ids)
    assert torch.equal(out.hidden_states[0], embedded)
    torch.testing.assert_close(model.get_output_embeddings()(out.hidden_states[-1]), out.logits)
    assert torch.equal(model(inputs_embeds=embedded).logits, out.logits)
    assert torch.equal(model(ids, return_dict=False)[0], out.logits)
    out.logits.square().mean().backward()
    assert all(w.grad is not None and w.grad.abs().sum() > 0 for w in model.parameters())


def test_inference_mode_leaves_no_trace_for_autograd():
    model = small_model()
    with torch.inference_mode():
        model(tokens(1, 8))
    model(tokens(1, 8)).logits.sum().backward()
    assert model.get_input_embeddings().weight.grad is not None
