"""Saving and loading the native LLaDA class: exact, without remote code or registration."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from dpad.models.hf import AutoConfig, AutoModel
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM
from tests.generation.common import logits
from tests.models.small_llada import PUBLISHED_8B, SMALL, small_model, tokens


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
    assert torch.equal(logits(model, ids), logits(again, ids))


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
    assert torch.isfinite(logits(model, tokens(1, 5))).all()


def test_nothing_is_registered_in_the_auto_classes(tmp_path):
    small_model().save_pretrained(tmp_path)
    AutoModel.from_pretrained(tmp_path)
    assert "llada" not in transformers.CONFIG_MAPPING
    assert LLaDAConfig not in transformers.MODEL_MAPPING
    assert LLaDAConfig not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    with pytest.raises(ValueError, match="llada"):
        transformers.AutoConfig.from_pretrained(tmp_path)


@pytest.mark.slow(reason="a process of its own imports Transformers")
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
        {"model_type": "llada", "architectures": ["LLaDAVModelLM"]},
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
