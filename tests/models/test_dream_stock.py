"""`dpad.patch` on a double of Dream's released remote code, on old and new Transformers."""

import copy
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import dpad
from dpad.models import hf
from dpad.models.adapter import UnsupportedModelError
from dpad.testing import dream_stock, dream_stock_generation
from dpad.testing.dream_stock_generation import DreamGenerationConfig
from tests.generation import test_golden
from tests.generation.common import DREAM, GOLDEN, pad

V5 = int(transformers.__version__.split(".")[0]) >= 5
SOURCES = (Path(dream_stock.__file__), Path(dream_stock_generation.__file__))
IDS = {n: DREAM["config"].get(n, DREAM["mask_id"]) for n in ("mask_token_id", "pad_token_id")}
IDS |= {"bos_token_id": 301, "eos_token_id": 300}
# Largest difference of a patched forward, in units of the largest logit (float32).
TOLERANCE = 1e-5


def default_frequencies(config=None, device=None, seq_len=None, **_):
    """What ``ROPE_INIT_FUNCTIONS["default"]`` is before Transformers 5."""
    size = config.hidden_size // config.num_attention_heads
    index = torch.arange(0, size, 2, dtype=torch.int64, device=device).float()
    return 1.0 / (config.rope_theta ** (index / size)), 1.0


def cure(code, monkeypatch, samplers=dream_stock_generation):
    """What makes the released code run on 5.x, in its own modules only."""
    if V5:
        known = {**code.ROPE_INIT_FUNCTIONS, "default": default_frequencies}
        monkeypatch.setattr(code, "ROPE_INIT_FUNCTIONS", known)
        config = samplers.DreamGenerationConfig
        monkeypatch.setattr(config, "validate", lambda self, *args, **kwargs: None)


@pytest.fixture(scope="session")
def weights():
    return {k: v.float() for k, v in load_file(GOLDEN / "dream_mha.safetensors").items()}


@pytest.fixture
def build(monkeypatch):
    """A function of configuration fields to a double in eval mode and float32."""
    cure(dream_stock, monkeypatch)

    def make(weights=None, **changes):
        config = dream_stock.DreamConfig(**{**DREAM["config"], **changes})
        model = dream_stock.DreamModel(config).float().eval()
        if weights is not None:
            model.load_state_dict(weights)
            return model
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(0, weight.shape[-1] ** -0.5, generator=generator)
        return model

    return make


@pytest.fixture
def stock(build, weights):
    return build(weights)


@pytest.fixture
def ids():
    return torch.randint(0, 290, (3, 21), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(model, *args, **kwargs):
    return model(*args, **kwargs).logits


def assert_close(got, want):
    assert got.dtype == want.dtype
    assert (got - want).abs().max() <= TOLERANCE * want.abs().max()


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
def test_generate_is_the_native_class_s(stock, weights, cache):
    native = hf.DreamModel(hf.DreamConfig(**DREAM["config"])).float().eval()
    native.load_state_dict(weights)
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


# --- rotary buffers ------------------------------------------------------------------------------


def spoil(model, value):
    """Rotary buffers as Transformers 5.x leaves them: at the top and in every layer."""
    for module in model.modules():
        if isinstance(module, dream_stock.DreamRotaryEmbedding):
            module.inv_freq = torch.full_like(module.inv_freq, value)


@pytest.mark.parametrize("value", (7.0, 0.0, float("nan")))
def test_garbage_in_rotary_buffers_is_reported_and_survived(stock, ids, value):
    want = logits(stock, ids)
    tokens = dpad.generate(stock, ids, max_new_tokens=8, block_length=8)
    spoil(stock, value)
    assert not torch.allclose(logits(stock, ids), want, atol=0.1)
    assert dpad.supports(stock)
    handle = dpad.patch(stock)
    (note,) = handle.notes
    assert "uninitialised" in note and "model.reset_rope_parameters() repairs it" in note
    assert note in repr(handle)
    assert_close(logits(stock, ids), want)
    assert stock.generate(ids, max_new_tokens=8, block_length=8).equal(tokens)
    handle.remove()
    stock.reset_rope_parameters()
    assert logits(stock, ids).equal(want)
    assert not dpad.patch(stock).notes


def test_rotary_buffers_rounded_with_the_weights_are_reported(stock):
    assert not dpad.patch(copy.deepcopy(stock)).notes
    (note,) = dpad.patch(stock.bfloat16()).notes
    assert "rounded to half precision" in note and "reset_rope_parameters" in note
    stock._dpad_handle.remove()
    stock.reset_rope_parameters()
    assert not dpad.patch(stock).notes


def test_rotary_buffers_without_memory_are_reported(stock, ids):
    want = logits(stock, ids)
    for module in stock.modules():
        if isinstance(module, dream_stock.DreamRotaryEmbedding):
            module.inv_freq = module.inv_freq.to("meta")
    with dpad.patch(stock) as handle:
        assert "meta" in handle.notes[0]
        assert_close(logits(stock, ids), want)


def test_a_configuration_that_is_not_the_default_rope_is_refused(stock):
    stock.config.rope_scaling = {"rope_type": "yarn", "factor": 4.0}
    with pytest.raises(UnsupportedModelError, match="rope_scaling"):
        dpad.patch(stock)


# --- patching, copies ----------------------------------------------------------------------------


def test_remove_leaves_no_trace(stock, ids):
    before, want = dict(vars(stock)), logits(stock, ids)
    other = copy.deepcopy(stock)
    handle = dpad.patch(stock)
    stock.generate([[1, 2, 3]], max_new_tokens=8, block_length=8)
    assert type(stock) is dream_stock.DreamModel and "_dpad_handle" not in vars(other)
    handle.remove()
    assert dict(vars(stock)) == before
    assert logits(stock, ids).equal(want)


@pytest.mark.parametrize("way", ("deepcopy", "pickle"))
def test_copies_are_patched_models_of_their_own(stock, way):
    handle = dpad.patch(stock)
    want = stock.generate([[1, 2, 3]], max_new_tokens=8, block_length=8)
    if way == "deepcopy":
        clone = copy.deepcopy(stock)
    else:
        # The frequencies' function is looked up again where the pickle is read.
        buffer = io.BytesIO()
        torch.save(stock, buffer)
        buffer.seek(0)
        clone = torch.load(buffer, weights_only=False)
    handle.remove()
    assert clone._dpad_handle.model is clone and clone._dpad_handle.active
    with torch.no_grad():
        stock.lm_head.weight.zero_()
    assert clone.generate([[1, 2, 3]], max_new_tokens=8, block_length=8).equal(want)


# --- loading as remote code ----------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, weights, monkeypatch):
    """A checkpoint folder whose code is the double, and a private cache for that code."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    for source, name in zip(SOURCES, ("modeling_dream.py", SOURCES[1].name), strict=True):
        shutil.copy(source, path / name)
    auto = {"AutoConfig": "modeling_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"}
    config = {**DREAM["config"], "model_type": "Dream", "auto_map": auto, "dtype": "float32"}
    (path / "config.json").write_text(json.dumps({**config, "architectures": ["DreamModel"]}))
    (path / "generation_config.json").write_text(json.dumps(IDS))
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    cache = str(tmp_path / "modules")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", cache)
    monkeypatch.setattr(sys, "path", sys.path[:])
    return path


def load(folder):
    return transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)


def test_loaded_remote_code_is_patched(folder, stock, ids, monkeypatch):
    """On 5.x only with the cures, and then its rotary buffers hold garbage."""
    want = logits(stock, ids)
    if V5:
        with pytest.raises(KeyError, match="default"):
            load(folder)
        fetch = transformers.dynamic_module_utils.get_class_from_dynamic_module
        code = sys.modules[fetch("modeling_dream.DreamModel", folder).__module__]
        samplers = sys.modules[code.DreamGenerationConfig.__module__]
        cure(code, monkeypatch, samplers)
    model = load(folder)
    assert not isinstance(model, dream_stock.DreamModel)
    assert type(model.generation_config).__name__ == "DreamGenerationConfig"
    with dpad.patch(model) as handle:
        assert_close(logits(model, ids), want)
        reported = [note for note in handle.notes if "reset_rope_parameters" in note]
        assert bool(reported) == (not torch.allclose(logits(stock, ids), handle_stock(model, ids)))
    model.reset_rope_parameters()
    assert logits(model, ids).equal(want)


def handle_stock(model, ids):
    """Logits of the stock forward under the patch, as its buffers are."""
    with torch.no_grad():
        return model._dpad_handle.stock_forward(ids).logits
