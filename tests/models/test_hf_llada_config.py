"""The native LLaDA configuration: published fields and shapes, refusals."""

import json

import pytest
import torch

from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM
from tests.models.small_llada import PUBLISHED_8B, SMALL


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
    with pytest.raises(ValueError, match=f"{name} ?= ?{value!r}"):
        LLaDAConfig(**{**SMALL, name: value})


def test_configuration_changed_later_is_refused_too():
    config = LLaDAConfig(**SMALL)
    config.alibi = True
    with pytest.raises(ValueError, match="alibi=True"):
        LLaDAModelLM(config)
