"""A folder cannot make the loader run code, read elsewhere, or load what is not there."""

import json
import math
import pickle
import struct
import sys
import types

import pytest
import torch
from safetensors.torch import load_file, save_file

import dpad
from dpad.models.hf import AutoConfig, AutoModel, AutoTokenizer
from dpad.models.hf.dream import DreamConfig
from dpad.models.hf.llada import LLaDAConfig
from tests.models.small_llada import SMALL
from tests.models.test_hf_dream import SMALL as SMALL_DREAM

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(model, tmp_path):
    """A checkpoint of each family."""
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(path, **fields):
    """Writes fields into a JSON file; None takes one away."""
    found = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({n: v for n, v in found.items() if v is not None}))


class Ran(Exception):
    pass


class Bomb:
    """A pickle that says so when it is read."""

    def __reduce__(self):
        return exec, ("raise __import__('tests.models.test_hostile_folders', fromlist='x').Ran",)


@pytest.fixture
def kernels(monkeypatch):
    """A stand-in for the package that fetches kernels; returns the list of what was asked for."""
    asked = []
    module = types.ModuleType("kernels")
    module.__spec__ = types.SimpleNamespace(name="kernels", origin=__file__, loader=None)

    def get_kernel(name, *args, **kwargs):
        asked.append(name)
        raise Ran(name)

    module.get_kernel = get_kernel
    monkeypatch.setitem(sys.modules, "kernels", module)
    import transformers.integrations.hub_kernels as hub

    for name in ("get_kernel", "get_kernel_hub"):
        monkeypatch.setattr(hub, name, get_kernel, raising=False)
    monkeypatch.setattr(hub, "_kernels_available", True, raising=False)
    there = "transformers.modeling_utils.is_kernels_available"
    monkeypatch.setattr(there, lambda *_: True, raising=False)
    return asked


@pytest.mark.parametrize(
    "field",
    ["_attn_implementation", "_attn_implementation_internal", "attn_implementation",
     "_experts_implementation", "experts_implementation"],
)  # fmt: skip
def test_no_field_chooses_a_kernel(folder, kernels, field):
    change(folder / "config.json", **{field: "evil/kernel"})
    for load in (AutoModel.from_pretrained, lambda f: type_of(f).from_pretrained(f)):
        loaded = load(folder)
        assert loaded.config._attn_implementation == "sdpa"
        assert "evil" not in json.dumps(loaded.config.to_dict())
    assert kernels == []


def type_of(folder):
    return type(AutoModel.from_pretrained(folder))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_implementation", "evil/kernel"),
        ("attn_implementation", "eager"),
        ("use_safetensors", False),
        ("use_kernels", True),
        ("allow_all_kernels", True),
        ("kernel_config", {"a": 1}),
        ("weights_only", False),
        ("gguf_file", "x.gguf"),
    ],
)
def test_arguments_that_would_are_refused(folder, kernels, name, value):
    for load in (AutoModel.from_pretrained, type_of(folder).from_pretrained):
        with pytest.raises(ValueError, match=f"{name} = "):
            load(folder, **{name: value})
    with pytest.raises(TypeError, match="trust_remote_code"):
        type_of(folder).from_pretrained(folder, trust_remote_code=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("transformers_weights", "../other/model.safetensors"),
        ("transformers_weights", "pytorch_model.bin"),
        ("configuration_files", ["config.5.json"]),
        ("fusion_config", {"patch_embeddings": True}),
        ("quantization_config", {"quant_method": "mxfp4"}),
        ("quantization_config", {"quant_method": "what"}),
        ("quantization_config", "fp8"),
        ("quantization_config", {}),
    ],
)
def test_fields_that_name_other_things_are_refused(folder, field, value):
    change(folder / "config.json", **{field: value})
    with pytest.raises(ValueError, match=f"config.json: {field} = .* is refused"):
        AutoModel.from_pretrained(folder)


def test_code_in_the_folder_does_not_run(folder, model):
    for name in ("modeling_x.py", "configuration_x.py", "custom_generate/generate.py"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("from tests.models.test_hostile_folders import Ran\nraise Ran\n")
    autos = {"AutoConfig": "configuration_x.X", "AutoModel": "modeling_x.X"}
    change(folder / "config.json", auto_map=autos)
    loaded = AutoModel.from_pretrained(folder)
    assert dpad.generate(loaded, [[1, 2, 3]], max_new_tokens=4).shape == (1, 7)


def test_pickles_are_not_read(folder):
    state = load_file(folder / WEIGHTS)
    torch.save(state, folder / "pytorch_model.bin")
    for content in (None, pickle.dumps(Bomb())):
        if content is not None:
            (folder / "pytorch_model.bin").write_bytes(content)
        AutoModel.from_pretrained(folder)  # beside safetensors it is not looked at
    (folder / WEIGHTS).unlink()
    with pytest.raises(OSError, match="pytorch_model.bin is a pickle"):
        AutoModel.from_pretrained(folder)
    index = {"metadata": {}, "weight_map": dict.fromkeys(state, "pytorch_model.bin")}
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="names 'pytorch_model.bin'"):
        AutoModel.from_pretrained(folder)


OUTSIDE = (
    "../other/x.safetensors",
    "{}/x.safetensors",
    "a/../../x.safetensors",
    "..\\x.safetensors",
    "C:\\x.safetensors",
)


@pytest.mark.parametrize("place", OUTSIDE)
def test_an_index_stays_in_its_folder(folder, tmp_path, place):
    other = tmp_path / "other"
    other.mkdir()
    state = load_file(folder / WEIGHTS)
    save_file(state, other / "x.safetensors", {"format": "pt"})
    (folder / WEIGHTS).unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(state, place.format(other))}
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="expected a safetensors file of its folder"):
        AutoModel.from_pretrained(folder)


MAPS = ("[]", "null", "{", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"a":' * 100_000)


@pytest.mark.parametrize("text", MAPS)
def test_an_index_that_is_none_is_named(folder, text):
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(text)
    with pytest.raises(ValueError, match="model.safetensors.index.json: "):
        AutoModel.from_pretrained(folder)


def test_a_shard_that_is_not_there_is_named(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(OSError, match=shard.name):
        AutoModel.from_pretrained(tmp_path)


def test_an_adapter_is_not_followed(folder):
    text = json.dumps({"base_model_name_or_path": "evil/model", "peft_type": "LORA"})
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match="adapter_config.json: an adapter lies in the folder"):
        AutoModel.from_pretrained(folder)


def test_a_distributed_checkpoint_is_not_read(folder):
    (folder / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="part of a distributed checkpoint"):
        AutoModel.from_pretrained(folder)


def q_proj(state):
    return next(n for n in state if "q_proj.weight" in n)


@pytest.mark.parametrize("gone", ["one", "a block", "all"])
def test_missing_weights_raise_with_their_names(folder, gone):
    state = load_file(folder / WEIGHTS)
    names = {
        "one": [q_proj(state)],
        "a block": [n for n in state if ".1." in n],
        "all": list(state),
    }[gone]
    kept = {n: w for n, w in state.items() if n not in names} or {"other": torch.zeros(1)}
    save_file(kept, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights") as error:
        AutoModel.from_pretrained(folder)
    assert str(folder) in str(error.value) and sorted(names)[0] in str(error.value)
    _, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert set(names) <= set(info["missing_keys"])


@pytest.mark.parametrize("bad", [torch.zeros(3, 4), torch.zeros(0), torch.zeros(2, 2, 2)])
def test_a_wrong_shape_names_weight_and_shapes(folder, bad):
    state = load_file(folder / WEIGHTS)
    name = q_proj(state)
    wanted = list(state[name].shape)
    save_file({**state, name: bad}, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError) as error:
        AutoModel.from_pretrained(folder)
    words = f"{WEIGHTS}: {name} has shape {list(bad.shape)}, the configuration asks for {wanted}"
    assert words in str(error.value)
    loaded = AutoModel.from_pretrained(
        folder, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert list(loaded[0].state_dict()[name].shape) == wanted


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_weights_are_numbers_with_a_point(folder, dtype):
    state = load_file(folder / WEIGHTS)
    name = q_proj(state)
    save_file({**state, name: state[name].to(dtype)}, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=f"{name} is .*, expected one of F64, F32"):
        AutoModel.from_pretrained(folder)


def test_safetensors_that_lie_are_named(folder):
    path = folder / WEIGHTS
    whole = path.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    header = whole[8 : 8 + size]
    files = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "header cut": whole[: 8 + size // 2],
        "huge header": struct.pack("<Q", 2**62) + whole[8:],
        "no JSON": struct.pack("<Q", 4) + b"{{{{" + whole[8 + size :],
        "outside": struct.pack("<Q", size) + header.replace(b"[0,", b"[9,", 1) + whole[8 + size :],
        "more": whole + b"x" * 10,
        "pickle": pickle.dumps(Bomb()),
    }
    for name, content in files.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{WEIGHTS}: not a safetensors file") as error:
            AutoModel.from_pretrained(folder)
        assert str(path) in str(error.value), name


@pytest.mark.parametrize("text", ["[1]", "null", "3", '"x"', "{", "", '{"a":' * 100_000, "\ud800"])
def test_a_configuration_that_is_none_is_named(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    for load in (AutoModel.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(ValueError, match="config.json: "):
            load(folder)


BAD_SIZES = (0, -1, 1.5, "4", True, None, [4], math.nan, 2**40)
OPTIONAL = ("mlp_hidden_size", "n_kv_heads", "embedding_size")


@pytest.mark.parametrize(
    "name",
    ["num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size",
     "intermediate_size", "vocab_size", "max_position_embeddings"],
)  # fmt: skip
def test_bad_sizes_of_dream_are_named(name):
    for bad in BAD_SIZES:
        with pytest.raises(ValueError, match=rf"DreamConfig\.{name} = "):
            DreamConfig(**{**SMALL_DREAM, name: bad})


@pytest.mark.parametrize(
    "name",
    ["n_layers", "n_heads", "n_kv_heads", "d_model", "mlp_hidden_size", "vocab_size",
     "embedding_size", "max_sequence_length", "mlp_ratio"],
)  # fmt: skip
def test_bad_sizes_of_llada_are_named(name):
    for bad in BAD_SIZES:
        if bad is None and name in OPTIONAL:
            continue
        with pytest.raises(ValueError, match=rf"LLaDAConfig\.{name} = "):
            LLaDAConfig(**{**SMALL, name: bad})


@pytest.mark.parametrize("name", ["rope_theta", "rms_norm_eps"])
def test_bad_numbers_are_named(name):
    for bad in (0, -1, math.nan, math.inf, "x", None, [1.0]):
        for cls, small in ((DreamConfig, SMALL_DREAM), (LLaDAConfig, SMALL)):
            with pytest.raises(ValueError, match=rf"{cls.__name__}\.{name} = "):
                cls(**{**small, name: bad})


@pytest.mark.parametrize("name", ["mask_token_id", "eos_token_id", "pad_token_id"])
def test_bad_ids_are_named(name):
    for bad in (-1, 1.5, "x", True, [], ["x"]):
        for cls, small in ((DreamConfig, SMALL_DREAM), (LLaDAConfig, SMALL)):
            with pytest.raises(ValueError, match=rf"{cls.__name__}\.{name}\b.* = "):
                cls(**{**small, name: bad})


def test_tokenizer_files_are_named(tmp_path):
    _, tokenizer = dpad.demo.load()
    tokenizer.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = tmp_path / name
        good = path.read_bytes()
        for bad in (b"", b"[1]", b"null", b"\xff", good[: len(good) // 2]):
            path.write_bytes(bad)
            with pytest.raises(ValueError, match=name):
                AutoTokenizer.from_pretrained(tmp_path)
        path.write_bytes(good)
