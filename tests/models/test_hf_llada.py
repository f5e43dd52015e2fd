"""The native LLaDA class: released names and shapes, exact loading, padding, refusals."""

import json
import math
import subprocess
import sys

import pytest

pytest.importorskip("transformers")

import torch
import transformers
from safetensors.torch import load_file, save_file

from dpad.models.hf import AutoConfig, AutoModel
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM

SMALL = {
    "d_model": 32,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 3,
    "mlp_hidden_size": 48,
    "vocab_size": 60,
    "embedding_size": 64,
    "max_sequence_length": 64,
    "mask_token_id": 59,
    "eos_token_id": 58,
    "pad_token_id": 58,
}

# config.json of GSAI-ML/LLaDA-8B-Instruct, without the loader's own entries
PUBLISHED_8B = json.loads(
    """{"activation_type": "silu", "alibi": false, "alibi_bias_max": 8.0, "attention_dropout": 0.0,
    "attention_layer_norm": false, "attention_layer_norm_with_affine": true,
    "bias_for_layer_norm": false, "block_group_size": 1, "block_type": "llama", "d_model": 4096,
    "embedding_dropout": 0.0, "embedding_size": 126464, "eos_token_id": 126081,
    "flash_attention": false, "include_bias": false, "include_qkv_bias": false,
    "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": false,
    "layer_norm_type": "rms", "layer_norm_with_affine": true, "mask_token_id": 126336,
    "max_sequence_length": 4096, "mlp_hidden_size": 12288, "mlp_ratio": 4, "model_type": "llada",
    "multi_query_attention": null, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32,
    "pad_token_id": 126081, "precision": "amp_bf16", "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05, "rope": true, "rope_full_precision": true, "rope_theta": 500000.0,
    "scale_logits": false, "vocab_size": 126464, "weight_tying": false}"""
)


def small_model(seed=0, **fields):
    """A random model whose logits are far from flat; biases and norms are not trivial."""
    torch.manual_seed(seed)
    model = LLaDAModelLM(LLaDAConfig(**{**SMALL, **fields})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(0.3 * torch.randn_like(weight))
        model.get_output_embeddings().weight.mul_(4.0)
    return model


def tokens(*shape, seed=1):
    return torch.randint(0, 58, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_of(model, ids, **inputs):
    return model(ids, **inputs).logits


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


def test_defaults_are_the_published_configuration():
    config = LLaDAConfig()
    assert {name: getattr(config, name) for name in PUBLISHED_8B} == PUBLISHED_8B
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (
        4096,
        32,
        32,
    )
    for absent in ("num_key_value_heads", "head_dim", "intermediate_size"):
        assert not hasattr(config, absent)


def test_saved_configuration_names_every_published_field(tmp_path):
    LLaDAConfig().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {name: saved.get(name, "absent") for name in PUBLISHED_8B} == PUBLISHED_8B
    again = LLaDAConfig.from_pretrained(tmp_path)
    assert {name: getattr(again, name) for name in PUBLISHED_8B} == PUBLISHED_8B


def test_keys_and_shapes_of_the_8b_model():
    with torch.device("meta"):
        model = LLaDAModelLM(LLaDAConfig()).to(torch.bfloat16)
    d, hidden, vocabulary = 4096, 12288, 126464
    expected = {
        "model.transformer.wte.weight": (vocabulary, d),
        "model.transformer.ln_f.weight": (d,),
        "model.transformer.ff_out.weight": (vocabulary, d),
    }
    for i in range(32):
        block = f"model.transformer.blocks.{i}."
        expected |= {f"{block}{n}.weight": (d,) for n in ("attn_norm", "ff_norm")}
        expected |= {
            f"{block}{n}.weight": (d, d) for n in ("q_proj", "k_proj", "v_proj", "attn_out")
        }
        expected |= {f"{block}{n}.weight": (hidden, d) for n in ("ff_proj", "up_proj")}
        expected[f"{block}ff_out.weight"] = (d, hidden)
    state = model.state_dict()
    assert {name: tuple(w.shape) for name, w in state.items()} == expected
    assert sum(w.numel() for w in state.values()) == 8_015_581_184
    assert sum(w.numel() * w.element_size() for w in state.values()) == 16_031_162_368
    assert not list(model.buffers())


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
    actual = logits_of(model, ids)
    assert actual.shape == (2, 19, 64)
    assert (actual.double() - expected).abs().max() < 1e-5 * expected.abs().max()


def test_scale_logits_divides_by_the_root_of_the_width():
    model = small_model()
    ids = tokens(1, 7)
    plain = logits_of(model, ids)
    model.config.scale_logits = True
    torch.testing.assert_close(logits_of(model, ids), plain / math.sqrt(32))


def test_rope_full_precision_decides_the_dtype_of_the_rotation():
    ids = tokens(1, 48)
    model = small_model(seed=3)
    exact = independent_logits(model, ids)
    errors = []
    for full in (True, False):
        low = small_model(seed=3, rope_full_precision=full).bfloat16()
        low.load_state_dict(model.state_dict())
        errors.append((logits_of(low, ids).double() - exact).abs().mean())
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
        batch = logits_of(model, ids, attention_mask=given)
        for i, row in enumerate(rows):
            torch.testing.assert_close(
                batch[i, places[i]], logits_of(model, row)[0], rtol=1e-4, atol=1e-4
            )
    assert not torch.allclose(
        logits_of(model, ids)[0, places[0]], logits_of(model, rows[0])[0], atol=1e-2
    )


def test_all_ones_mask_changes_nothing_and_attention_is_bidirectional():
    model = small_model()
    ids = tokens(2, 9)
    plain = logits_of(model, ids)
    assert torch.equal(logits_of(model, ids, attention_mask=torch.ones_like(ids)), plain)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 58
    assert not torch.allclose(logits_of(model, changed)[:, 0], plain[:, 0], atol=1e-3)


def test_attention_bias_hides_what_it_should():
    model = small_model()
    ids = tokens(1, 9)
    visible = torch.ones(1, 1, 9, 9, dtype=torch.bool)
    visible[..., 6:] = False
    expected = logits_of(model, ids, attention_mask=(torch.arange(9) < 6).long()[None])
    additive = torch.zeros(1, 1, 9, 9).masked_fill(~visible, -torch.inf)
    for bias in (visible, additive):
        actual = logits_of(model, ids, attention_bias=bias)
        torch.testing.assert_close(actual[:, :6], expected[:, :6], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_save_and_load_in_shards_is_exact(tmp_path, tied):
    model = small_model(weight_tying=tied)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.state_dict())
    assert ("model.transformer.ff_out.weight" in index["weight_map"]) is not tied
    again = AutoModel.from_pretrained(str(tmp_path))
    assert type(again) is LLaDAModelLM
    assert not again.training
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    ids = tokens(2, 12)
    assert torch.equal(logits_of(model, ids), logits_of(again, ids))


def test_dtype_of_a_loaded_model(tmp_path):
    model = small_model().bfloat16()
    model.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).dtype == torch.bfloat16
    wide = AutoModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert wide.dtype == torch.float32
    for name, weight in model.state_dict().items():
        assert torch.equal(weight.float(), wide.state_dict()[name])
    assert AutoModel.from_pretrained(tmp_path, torch_dtype=torch.float16).dtype == torch.float16


def test_missing_weight_is_initialised_and_no_other(tmp_path):
    model = small_model(include_bias=True)
    model.save_pretrained(tmp_path)
    missing = "model.transformer.blocks.1.attn_out.weight"
    state = load_file(tmp_path / "model.safetensors")
    del state[missing]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, info = LLaDAModelLM.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {missing}
    for name, weight in loaded.state_dict().items():
        if name == missing:
            assert 0.01 < weight.std() < 1.0
        elif name != missing.replace("weight", "bias"):  # 4.57 takes the module as one
            assert torch.equal(weight, state[name]), name


def test_config_values_can_be_overwritten_on_load(tmp_path):
    small_model().save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path, rope_theta=1e4).config.rope_theta == 1e4
    assert AutoConfig.from_pretrained(tmp_path, rope_theta=1e4).rope_theta == 1e4
    assert AutoConfig.from_pretrained(tmp_path).n_kv_heads == 2


def test_released_configuration_file_loads(tmp_path):
    small_model().save_pretrained(tmp_path)
    released = (
        PUBLISHED_8B
        | SMALL
        | {
            "architectures": ["LLaDAModelLM"],
            "auto_map": {
                "AutoConfig": "configuration_llada.LLaDAConfig",
                "AutoModel": "modeling_llada.LLaDAModelLM",
            },
            "torch_dtype": "bfloat16",
            "transformers_version": "4.46.2",
            "use_cache": False,
        }
    )
    (tmp_path / "config.json").write_text(json.dumps(released))
    model = AutoModel.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16
    assert torch.isfinite(logits_of(model, tokens(1, 5))).all()


def test_nothing_is_registered_in_the_auto_classes(tmp_path):
    small_model().save_pretrained(tmp_path)
    AutoModel.from_pretrained(tmp_path)
    assert "llada" not in transformers.CONFIG_MAPPING
    assert LLaDAConfig not in transformers.MODEL_MAPPING
    assert LLaDAConfig not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    with pytest.raises(ValueError, match="llada"):
        transformers.AutoConfig.from_pretrained(tmp_path)


def test_import_is_light():
    code = (
        "import sys, dpad.models.hf as hf; hf.AutoModel\n"
        "bad = [m for m in sys.modules if m == 'transformers' or m.startswith('dpad._')]\n"
        "hf.LLaDAModelLM\n"
        "bad += [m for m in sys.modules if m.startswith(('dpad._', 'dpad.ops'))]\n"
        "print(bad)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_trust_remote_code_is_refused(tmp_path):
    for auto in (AutoModel, AutoConfig):
        with pytest.raises(TypeError, match="trust_remote_code"):
            auto.from_pretrained(tmp_path, trust_remote_code=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "llada", "architectures": ["LLaDAMoEModelLM"]},
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
        {"model_type": "gpt2"},
    ],
)
def test_unknown_architecture_is_refused_with_the_known_ones(tmp_path, fields):
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"known are: .*LLaDAModelLM \(llada\)"):
        AutoModel.from_pretrained(tmp_path)


def test_folder_without_configuration_is_refused(tmp_path):
    with pytest.raises((ValueError, OSError), match=r"config\.json"):
        AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alibi", True),
        ("rope", False),
        ("block_group_size", 2),
        ("block_type", "sequential"),
        ("activation_type", "swiglu"),
        ("layer_norm_type", "default"),
        ("layer_norm_with_affine", False),
        ("attention_layer_norm", True),
        ("bias_for_layer_norm", True),
        ("input_emb_norm", True),
        ("clip_qkv", 8.0),
        ("attention_dropout", 0.1),
        ("residual_dropout", 0.1),
        ("embedding_dropout", 0.1),
        ("n_heads", 5),
        ("n_kv_heads", 3),
        ("n_layers", 0),
        ("embedding_size", 59),
        ("d_model", 12),
    ],
)
def test_unsupported_configuration_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        LLaDAConfig(**{**SMALL, name: value})


def test_configuration_changed_later_is_refused_too():
    config = LLaDAConfig(**SMALL)
    config.alibi = True
    with pytest.raises(ValueError, match="alibi=True"):
        LLaDAModelLM(config)


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
