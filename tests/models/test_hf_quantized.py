"""Loading 8-bit: the same model as quantize() makes, in less memory; saved folders load again."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import dpad
from dpad import demo
from dpad.models.hf import AutoConfig, AutoModel
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM
from dpad.models.int8_linear import Int8Linear
from tests.models.small_llada import small_model, tokens


def assert_equal_states(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype and torch.equal(tensor, b[name]), name


@torch.no_grad()
def logits(model):
    return model(tokens(2, 12)).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fields", [{}, {"weight_tying": True}, {"include_bias": True}])
def test_shards_are_rounded_as_they_are_read(tmp_path, dtype, fields):
    model = small_model(**fields).to(dtype)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded = AutoModel.from_pretrained(tmp_path, quantization="int8")
    assert type(loaded) is LLaDAModelLM and not loaded.training and loaded.dtype == dtype
    dpad.quantize(model)
    assert_equal_states(loaded, model)
    assert torch.equal(logits(loaded), logits(model))
    assert all(p.is_contiguous() and p.stride() != (0,) for p in loaded.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_are_rounded_and_saved_too(tmp_path, dtype):
    model = small_model().to(dtype)
    model.save_pretrained(tmp_path / "large")
    loaded = AutoModel.from_pretrained(tmp_path / "large", quantization="int8", embedding=True)
    dpad.quantize(model, embedding=True)
    loaded.save_pretrained(tmp_path / "small")
    again = AutoModel.from_pretrained(tmp_path / "small")
    for other in (loaded, again):
        assert_equal_states(other, model)
        assert other.model.transformer.wte.dtype == other.dtype == dtype
        assert torch.equal(logits(other), logits(model))
    half = AutoModel.from_pretrained(tmp_path / "small", dtype="float16")
    assert logits(half).dtype == torch.float16
    with pytest.raises(ValueError, match="quantised already"):
        AutoModel.from_pretrained(tmp_path / "small", quantization="int8", embedding=True)


def test_options_and_dtype(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    keep = ["model.transformer.blocks.0.up_proj"]
    options = {"quantization": "int8", "head": False, "keep": keep}
    loaded = AutoModel.from_pretrained(tmp_path, dtype="bfloat16", **options)
    kept = [n for n, m in loaded.named_modules() if type(m) is nn.Linear]
    assert kept == [*keep, "model.transformer.ff_out"]
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    dpad.quantize(model, head=False, keep=keep)  # from the checkpoint's values, not bfloat16's
    name = "model.transformer.blocks.1.up_proj"
    for held in ("weight", "scale"):
        one, other = (getattr(m.get_submodule(name), held) for m in (loaded, model))
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", demo.MODELS)
def test_shipped_models_and_their_saved_folders(tmp_path, name):
    loaded = AutoModel.from_pretrained(demo.model_folder(name), quantization="int8")
    loaded.save_pretrained(tmp_path, max_shard_size="200KB")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "dpad_int8"}
    again = AutoModel.from_pretrained(tmp_path)
    assert_equal_states(again, loaded)
    problem = demo.problems(1)[0]
    ids = torch.tensor([problem.prompt_ids])
    answers = []
    for model in (loaded, again):
        with dpad.patch(model):
            answers.append(model.generate(ids, max_new_tokens=96, seed=0))
    assert torch.equal(*answers) and problem.check(answers[0][0, ids.shape[1] :])
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(loaded.config)


def test_a_saved_folder_keeps_smoothing_and_what_was_kept(tmp_path):
    model = small_model(include_bias=True)
    name = "model.transformer.blocks.1.up_proj"
    dpad.quantize(model, head=False, smoothing={name: torch.rand(32) + 0.5})
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert again.get_submodule(name).smoothing is not None
    assert type(again.model.transformer.ff_out) is nn.Linear
    assert_equal_states(again, model)
    assert torch.equal(logits(again), logits(model))
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.float16)
    layer = half.get_submodule(name)
    assert half.dtype == torch.float16 and layer.scale.dtype == torch.float32


def test_what_is_loaded_is_known_as_quantised(tmp_path):
    small_model().save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, quantization="int8")
    with pytest.raises(ValueError, match="quantised already"):
        dpad.quantize(loaded)


def test_every_way_to_load_finds_it(tmp_path):
    loaded = AutoModel.from_pretrained(demo.model_folder(), quantization="int8")
    loaded.save_pretrained(tmp_path)
    assert_equal_states(LLaDAModelLM.from_pretrained(tmp_path), loaded)
    state = load_file(tmp_path / "model.safetensors")
    state["model.transformer.ff_out.weight"] = torch.zeros(2, 2, dtype=torch.int8)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"ff_out.weight' is \[2, 2\] in the checkpoint"):
        AutoModel.from_pretrained(tmp_path)


def drop(name):
    return lambda state: state.pop(name)


def add(state):
    state["model.other"] = torch.zeros(2)


def cut(state):
    state["model.transformer.blocks.0.up_proj.weight"] = torch.zeros(3, 3)


def spoil(state):
    state["model.transformer.ff_out.weight"][3, 3] = float("inf")


BROKEN = {
    "missing": (drop("model.transformer.ln_f.weight"), "lacks 'model.transformer.ln_f.weight'"),
    "unknown": (add, "holds 'model.other'"),
    "shape": (cut, r"up_proj.weight has shape \[3, 3\], the configuration asks for \[48, 32\]"),
    "infinite": (spoil, "ff_out.weight': the weight holds a value that is not finite"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_checkpoints(tmp_path, name):
    change, message = BROKEN[name]
    small_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        AutoModel.from_pretrained(tmp_path, quantization="int8")


def test_arguments(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    load = AutoModel.from_pretrained
    with pytest.raises(ValueError, match="quantization = 'int4': expected int8"):
        load(tmp_path, quantization="int4")
    with pytest.raises(ValueError, match="dtype = 'int8': expected auto"):
        load(tmp_path, quantization="int8", dtype="int8")
    with pytest.raises(ValueError, match="keep names 'x'"):
        load(tmp_path, quantization="int8", keep=["x"])
    with pytest.raises(TypeError, match="device_map is not taken with quantization"):
        load(tmp_path, quantization="int8", device_map="auto")
    with pytest.raises(TypeError, match="trust_remote_code"):
        load(tmp_path, quantization="int8", trust_remote_code=True)
    load(tmp_path, quantization="int8").save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match="quantised already: load it without"):
        load(tmp_path / "small", quantization="int8")
    with pytest.raises(TypeError, match="head is not taken with quantization"):
        load(tmp_path / "small", head=False)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load(tmp_path, quantization="int8")


PEAK = """
import sys, torch
torch.set_num_threads(1)
import dpad
from dpad.models.hf import AutoModel
from dpad.models.hf.llada import LLaDAModelLM
def anonymous():
    with open("/proc/self/status") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    return int(fields["RssAnon"].split()[0]) // 1024
from threading import Thread
from time import sleep
peak, done = 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        sleep(0.002)
before = anonymous()
thread = Thread(target=watch)
thread.start()
model = AutoModel.from_pretrained(sys.argv[1], quantization="int8")
done = True
thread.join()
size = sum(t.nbytes for t in model.state_dict().values()) >> 20
print(before, peak, anonymous(), size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_the_small_model_and_a_tensor(tmp_path):
    """240 MB of bfloat16 in shards of 30 MB; the largest tensor has 8 MB."""
    config = {"d_model": 1024, "n_heads": 8, "n_kv_heads": 8, "n_layers": 8, "vocab_size": 4000}
    config |= {"embedding_size": 4096, "mlp_hidden_size": 4096, "max_sequence_length": 64}
    ids = {"mask_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    model = LLaDAModelLM(LLaDAConfig(**config, **ids)).bfloat16()
    full = sum(t.nbytes for t in model.state_dict().values()) >> 20
    model.save_pretrained(tmp_path, max_shard_size="30MB")
    del model
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    # Freed memory goes back at once: what the C library would keep of it differs by run.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    before, peak, after, size = map(int, done.stdout.split())
    assert size < 0.55 * full
    # One tensor as it is read, and its pieces as they are widened.
    assert peak - before < size + 30 < 0.65 * full
    assert after - before < size + 15


def test_layers_by_their_type(tmp_path):
    small_model().save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, quantization="int8")
    assert sum(isinstance(m, Int8Linear) for m in loaded.modules()) == 22
    assert not any(type(m) is nn.Linear for m in loaded.modules())
