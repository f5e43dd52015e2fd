"""`dpad.patch` on a double of the released remote code: what changes, what does not, undoing it."""

import copy
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import dpad
from dpad.models import hf
from dpad.models.adapter import UnsupportedModelError
from dpad.testing import remote
from tests.generation import test_golden
from tests.generation.common import GOLDEN, META, pad

V5 = int(transformers.__version__.split(".")[0]) >= 5
LOADING = Path(__file__).parents[2] / "docs" / "loading.md"
# Largest difference of a patched forward, in units of the largest logit (float32).
TOLERANCE = 1e-5


@pytest.fixture(scope="session")
def weights():
    return {k: v.float() for k, v in load_file(GOLDEN / "llada_mha.safetensors").items()}


@pytest.fixture(params=(1, 2), ids=("v1", "v2"))
def revision(request):
    return request.param


@pytest.fixture
def stock(weights, revision):
    return remote.llada_model(META["config"], revision, weights)


@pytest.fixture
def ids():
    return torch.randint(0, 290, (3, 37), generator=torch.Generator().manual_seed(3))


def random_model(revision=2, **changes):
    """A double with other configuration fields and spread-out random weights."""
    model = remote.llada_model({**META["config"], **changes}, revision)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, weight.shape[-1] ** -0.5, generator=generator)
    return model


@torch.no_grad()
def logits(model, ids, **kwargs):
    return model(ids, **kwargs).logits


def assert_close(got, want):
    assert got.dtype == want.dtype
    assert (got - want).abs().max() <= TOLERANCE * want.abs().max()


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


# --- patching and unpatching ---------------------------------------------------------------------


def snapshot(model):
    """Identity of everything in every module's ``__dict__``."""
    return {
        name: {key: id(value) for key, value in vars(module).items()}
        for name, module in model.named_modules()
    }


def test_remove_leaves_no_trace(stock, ids):
    before, keys = snapshot(stock), list(stock.state_dict())
    handle = dpad.patch(stock)
    assert set(vars(stock)) - set(before[""]) == {"_dpad_handle", "forward", "generate"}
    assert list(stock.state_dict()) == keys
    assert type(stock).forward is remote.llada(stock_revision(stock)).LLaDAModelLM.forward
    stock.generate([[1, 2, 3]], max_new_tokens=8, block_length=8)
    handle.remove()
    assert snapshot(stock) == before
    handle.remove()
    assert snapshot(stock) == before


def stock_revision(model):
    return 2 if hasattr(model.model, "get_bidirectional_attention_bias") else 1


def test_a_second_instance_is_untouched(stock, ids, weights, revision):
    other = remote.llada_model(META["config"], revision, weights)
    before, want = snapshot(other), logits(other, ids)
    with dpad.patch(stock):
        assert snapshot(other) == before
        assert logits(other, ids).equal(want)
        assert not hasattr(other, "_dpad_handle")


def test_both_revisions_patched_side_by_side(weights):
    ids, mask = pad([[5, 6, 7, 8], [9, 10]], "left")
    one, two = (remote.llada_model(META["config"], n, weights) for n in (1, 2))
    want = [logits(m, ids, attention_mask=mask) for m in (one, two)]
    with dpad.patch(one), dpad.patch(two):
        assert_close(logits(one, ids, attention_mask=mask), want[0])
        assert_close(logits(two, ids, attention_mask=mask), want[1])


def test_patching_twice_names_the_handle(stock):
    with dpad.patch(stock) as handle:
        with pytest.raises(RuntimeError, match=hex(id(handle))):
            dpad.patch(stock)
        assert stock._dpad_handle is handle
        assert handle.active
    assert not handle.active
    dpad.patch(stock).remove()


def test_an_error_inside_the_context_still_removes(stock):
    before = snapshot(stock)
    with pytest.raises(KeyError), dpad.patched(stock):
        raise KeyError
    assert snapshot(stock) == before


def test_changed_weights_are_used_at_once(stock, ids):
    with dpad.patch(stock):
        with torch.no_grad():
            stock.model.transformer.blocks[1].q_proj.weight.mul_(2.0)
        got = logits(stock, ids)
    assert_close(got, logits(stock, ids))


def test_a_replaced_projection_is_called(stock, ids):
    class Doubled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    block = stock.model.transformer.blocks[0]
    block.v_proj = Doubled(block.v_proj)
    want = logits(stock, ids)
    with dpad.patch(stock):
        assert_close(logits(stock, ids), want)


def test_hooks_where_modules_are_called_run(stock, ids):
    seen = []
    parts = stock.model.transformer
    for module in (stock, parts.wte, parts.ff_out, parts.blocks[2].k_proj):
        module.register_forward_hook(lambda m, *_: seen.append(type(m).__name__))
    with dpad.patch(stock):
        logits(stock, ids)
    assert sorted(seen) == ["Embedding", "LLaDAModelLM", "Linear", "Linear"]


@pytest.mark.parametrize("kind", ("register_forward_hook", "register_forward_pre_hook"))
def test_hooks_elsewhere_are_refused_or_reported(stock, kind):
    before = snapshot(stock)
    block = stock.model.transformer.blocks[1]
    hook = getattr(block, kind)(lambda *_: None)
    with pytest.raises(UnsupportedModelError, match=r"model\.transformer\.blocks\.1"):
        dpad.patch(stock)
    with dpad.patch(stock, strict=False) as handle:
        assert any("blocks.1" in note for note in handle.notes)
        assert "blocks.1" in repr(handle)
    hook.remove()
    dpad.patch(stock).remove()
    assert set(snapshot(stock)[""]) == set(before[""])


def test_handle_prints_what_runs_where(stock):
    handle = dpad.patch(stock)
    text = repr(handle)
    words = "LLaDAModelLM (llada), active|3 layers, 4/4 heads of 16|float32, cpu|block_attention"
    for word in [*words.split("|"), "defaults", "block_length", "suffix", "no published values"]:
        assert word in text
    handle.remove()
    assert "removed" in repr(handle)


def test_handle_names_the_variant_whose_defaults_hold(stock):
    stock.config._name_or_path = "GSAI-ML/LLaDA-8B-Instruct"
    text = repr(dpad.patch(stock))
    assert "defaults (LLaDA-8B-Instruct)" in text
    assert "window=256" in text


# --- what is refused -----------------------------------------------------------------------------


def test_supports_answers_without_touching(stock):
    before = snapshot(stock)
    answer = dpad.supports(stock)
    assert answer
    assert answer.family == "llada"
    assert snapshot(stock) == before
    assert not dpad.supports(nn.Linear(2, 2))
    assert "Linear" in dpad.supports(nn.Linear(2, 2)).reason


def test_unknown_class_lists_what_was_looked_for():
    with pytest.raises(UnsupportedModelError, match=r"Sequential.*llada: LLaDAModelLM"):
        dpad.patch(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match="str"):
        dpad.patch("GSAI-ML/LLaDA-8B-Instruct")


def test_a_known_name_with_another_tree_is_refused(stock):
    del stock.model.transformer.blocks[1].up_proj
    before = snapshot(stock)
    with pytest.raises(UnsupportedModelError, match="up_proj"):
        dpad.patch(stock)
    assert snapshot(stock) == before


@pytest.mark.parametrize(
    "field, value",
    (("alibi", True), ("attention_layer_norm", True), ("block_group_size", 2), ("rope", False)),
)
def test_configurations_without_a_forward_are_refused_by_name(stock, field, value):
    setattr(stock.model.config, field, value)
    with pytest.raises(UnsupportedModelError, match=field):
        dpad.patch(stock)


def test_a_config_of_another_type_is_refused(stock):
    with pytest.raises(TypeError, match="dict"):
        dpad.patch(stock, {"temperature": 0.0})


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


# --- loading as remote code ----------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, weights, monkeypatch):
    """A checkpoint folder whose code is the double, and a private cache for that code."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    shutil.copy(remote.LLADA_SOURCE, path / "modeling_llada.py")
    auto = {"AutoConfig": "modeling_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"}
    config = {**META["config"], "model_type": "llada", "auto_map": auto, "use_cache": False}
    (path / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    cache = str(tmp_path / "modules")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", cache)
    monkeypatch.setattr(sys, "path", sys.path[:])
    return path


def load(folder):
    return transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)


@pytest.mark.skipif(V5, reason="the released code does not load by itself on transformers 5.x")
def test_loaded_remote_code_is_patched_and_saved(folder, tmp_path, ids):
    model = load(folder)
    assert not isinstance(model, remote.llada(2).LLaDAModelLM)
    want = logits(model, ids)
    with dpad.patch(model):
        assert_close(logits(model, ids), want)
        model.save_pretrained(tmp_path / "saved")
    native = hf.AutoModel.from_pretrained(tmp_path / "saved")
    assert_close(logits(native, ids), want)


@pytest.mark.skipif(not V5, reason="transformers 4.57 loads the released code")
def test_load_errors_of_transformers_5_are_documented_with_their_cure(folder, weights, ids):
    page = LOADING.read_text()
    text = "'LLaDAModelLM' object has no attribute 'all_tied_weights_keys'"
    assert text in page
    with pytest.raises(AttributeError, match=text):
        load(folder)
    fetch = transformers.dynamic_module_utils.get_class_from_dynamic_module
    code = fetch("modeling_llada.LLaDAModelLM", folder)
    code.all_tied_weights_keys = {}
    text = "tie_weights() got an unexpected keyword argument 'missing_keys'"
    assert text in page
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'missing_keys'"):
        load(folder)
    # The cure: the class and its configuration, then the weights.
    model = code(code.config_class.from_pretrained(folder)).eval()
    model.load_state_dict(weights)
    text = "'LLaDAConfig' object has no attribute 'use_cache'"
    assert text in page
    with pytest.raises(AttributeError, match=text):
        model(ids)
    with dpad.patch(model):
        got = logits(model, ids)
    model.config.use_cache = False
    assert_close(got, logits(model, ids))


def test_a_deep_copy_of_an_unpatched_model_is_patched_alone(stock, ids):
    twin = copy.deepcopy(stock)
    with dpad.patch(twin):
        assert not hasattr(stock, "_dpad_handle")
        assert_close(logits(twin, ids), logits(stock, ids))
