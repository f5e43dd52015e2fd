"""calibrate: it finds planted outliers, its factors pay, and the model stays as it is."""

import pytest
import torch

import dpad
from dpad.models.hf import AutoModel
from tests.models.small_llada import small_model, tokens
from tests.models.test_quantized import fingerprint

SPOILED = "model.transformer.blocks.1."
READERS = {SPOILED + name for name in ("q_proj", "k_proj", "v_proj")}


@pytest.fixture
def model():
    """One channel behind a norm is 200 times as large as the others; what reads it, as much less:
    in exact arithmetic nothing has changed.
    """
    model = small_model(d_model=128, n_heads=4, mlp_hidden_size=96)
    block = model.model.transformer.blocks[1]
    with torch.no_grad():
        block.attn_norm.weight[7] *= 200
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(block, name).weight[:, 7] /= 200
    return model


def canvases():
    return [tokens(20, seed=seed) for seed in range(3)]


@torch.no_grad()
def error(model, exact):
    return (model(tokens(2, 24)).logits - exact).norm() / exact.norm()


@torch.no_grad()
def test_it_finds_the_outliers_and_takes_them_out(model):
    before, exact = fingerprint(model), model(tokens(2, 24)).logits
    found = dpad.calibrate(model, canvases())
    assert fingerprint(model) == before
    assert not any(m._forward_hooks for m in model.modules())
    assert found.smoothing.keys() >= READERS and found.keep == []
    assert len(found.errors) == 22
    for name, (plain, smooth) in found.errors.items():
        assert (plain > 0.1 and smooth < 0.03) if name in READERS else plain < 0.05
    with dpad.quantize(model):
        plain = error(model, exact)
    with dpad.quantize(model, **found.options()):
        assert error(model, exact) < plain / 3
    assert "22 layers" in repr(found) and SPOILED in repr(found)


def test_layers_beyond_the_bound_are_kept(model):
    errors = {n: min(pair) for n, pair in dpad.calibrate(model, canvases()).errors.items()}
    bound = sorted(errors.values())[10]
    found = dpad.calibrate(model, canvases(), most_error=bound)
    assert found.keep == [n for n, least in errors.items() if least > bound]
    assert len(found.keep) == 11 and not found.smoothing.keys() & set(found.keep)
    handle = dpad.quantize(model, **found.options())
    assert set(handle.kept) == set(found.keep) and len(handle.layers) == 11


def test_patched_models_and_the_head(model):
    plain = dpad.calibrate(model, canvases(), head=False)
    assert len(plain.errors) == 21
    with dpad.patch(model):
        found = dpad.calibrate(model, canvases(), head=False)
    for name, pair in found.errors.items():
        assert pair == pytest.approx(plain.errors[name], rel=0.02)


def test_loading_takes_them(model, tmp_path):
    found = dpad.calibrate(model, canvases())
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, quantization="int8", **found.options())
    dpad.quantize(model, **found.options())
    with torch.no_grad():
        assert torch.equal(loaded(tokens(2, 24)).logits, model(tokens(2, 24)).logits)


def test_channels_that_are_never_used(model):
    name = SPOILED + "attn_out"
    with torch.no_grad():
        model.get_submodule(SPOILED + "v_proj").weight[3] = 0
        model.get_submodule(name).weight[:, 9] = 0
    found = dpad.calibrate(model, canvases())
    assert all(f.isfinite().all() and (f > 0).all() for f in found.smoothing.values())
    dpad.quantize(model, **found.options())


def test_refusals(model):
    with pytest.raises(ValueError, match="canvases: expected at least one"):
        dpad.calibrate(model, [])
    for canvas in ([], [[1, 2]], [1.5], [True], [-1], [64], "ab", None, torch.ones(2, 2).long()):
        with pytest.raises(ValueError, match=r"canvases\[1\]"):
            dpad.calibrate(model, [[1, 2], canvas])
    with pytest.raises(ValueError, match=r"canvases\[0\] has 65 positions, the model has 64"):
        dpad.calibrate(model, [[1] * 65])
    for value in (5, None, "ab"):
        with pytest.raises(TypeError, match="canvases = "):
            dpad.calibrate(model, value)
    for name, values in {
        "strength": (1.5, True, "x", None, float("nan")),
        "most_error": (-1.0, True, "x", None, float("nan")),
        "head": ("no", 0, None),
    }.items():
        for value in values:
            with pytest.raises(ValueError, match=f"{name} = "):
                dpad.calibrate(model, canvases(), **{name: value})
    dpad.quantize(model)
    with pytest.raises(ValueError, match="quantised already"):
        dpad.calibrate(model, canvases())
