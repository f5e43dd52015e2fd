"""quantize: which layers, that it is undone bit for bit, and what it refuses without a change."""

import pytest
import torch
from torch import nn

import dpad
from dpad import demo
from dpad.models.int8_embedding import Int8Embedding
from dpad.models.int8_linear import Int8Linear
from tests.models.small_llada import small_model, tokens

SETTINGS = {"max_new_tokens": 16, "block_length": 8, "steps": 4, "mask_token_id": 59}


def fingerprint(model):
    modules = {name: id(module) for name, module in model.named_modules()}
    return modules, {n: (id(p), p._version) for n, p in model.state_dict(keep_vars=True).items()}


@pytest.fixture
def model():
    return small_model(include_bias=True)


def small_layers(model):
    return [n for n, m in model.named_modules() if isinstance(m, Int8Linear)]


def test_the_decoders_linear_layers_and_back(model):
    before, ids = fingerprint(model), tokens(2, 10)
    with torch.no_grad():
        exact = model(ids).logits
    handle = dpad.quantize(model)
    assert len(handle.layers) == 3 * 7 + 1 and handle.kept == []
    assert small_layers(model) == handle.layers
    assert not any(type(m) is nn.Linear for m in model.modules())
    with torch.no_grad():
        rounded = model(ids).logits
    assert 0 < (rounded - exact).norm() < 0.1 * exact.norm()
    large, small = handle.nbytes()
    assert small < large / 2
    assert f"int8: 22 layers of LLaDAModelLM, {large} bytes of weights now {small}" == repr(handle)
    handle.remove()
    handle.remove()
    assert fingerprint(model) == before and not handle.active
    assert not hasattr(model.config, "quantization_config")
    with torch.no_grad():
        assert torch.equal(model(ids).logits, exact)


def test_layers_come_back_to_where_the_model_went_meanwhile(model):
    small = dpad.quantize(model)
    model.bfloat16().train()
    small.remove()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(module.training for module in model.modules())
    converted = small_model(include_bias=True).bfloat16()
    for name, weight in model.eval().state_dict().items():
        assert torch.equal(weight, converted.state_dict()[name])
    ids = tokens(1, 5)
    assert torch.equal(
        dpad.generate(model, ids, **SETTINGS), dpad.generate(converted, ids, **SETTINGS)
    )
    small = dpad.quantize(model)
    model.to("meta")
    small.remove()
    assert all(p.is_meta for p in model.parameters())


def test_with_statement_undoes_it(model):
    before = fingerprint(model)
    with dpad.quantize(model) as handle:
        assert handle.active and small_layers(model)
    assert fingerprint(model) == before


def test_head_and_others_can_be_kept(model):
    names = dpad.quantize(model).layers
    head, other = "model.transformer.ff_out", "model.transformer.blocks.0.ff_out"
    assert {head, other} <= set(names)
    second = small_model()
    handle = dpad.quantize(second, head=False, keep=[other])
    assert set(handle.layers) == set(names) - {head, other}
    assert handle.kept == [other, head] and repr(handle).endswith(f"as they were: {other}, {head}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_embedding_by_option(dtype):
    """Rows, K/V and reports keep the model's dtype, which the embedding's weight does not tell."""
    model, ids = small_model().to(dtype), tokens(2, 10)
    before = fingerprint(model)
    with torch.no_grad():
        exact = model(ids).logits
    handle = dpad.quantize(model, embedding=True)
    assert len(handle.layers) == 22 + 1 and handle.layers[0] == "model.transformer.wte"
    assert isinstance(model.get_input_embeddings(), Int8Embedding)
    with torch.no_grad():
        rounded = model(ids).logits
    assert rounded.dtype == dtype and 0 < (rounded - exact).norm() < 0.15 * exact.norm()
    with dpad.patch(model) as patched:
        assert patched.adapter.dtype == dtype and str(dtype) in repr(patched)
        with torch.no_grad():
            seen = model(ids).logits
        assert (seen - rounded).norm() < (1e-5 if dtype == torch.float32 else 0.1) * exact.norm()
        assert model.generate(ids, **SETTINGS).shape == (2, 26)
        caches = patched._workspaces.free[0].arena.layers
        assert {t.dtype for pair in caches for t in pair} == {dtype}
    handle.remove()
    assert fingerprint(model) == before


def test_a_model_with_such_an_embedding_can_be_converted():
    model = small_model()
    dpad.quantize(model, embedding=True)
    with dpad.patch(model) as patched:
        model.bfloat16()
        assert model.generate(tokens(2, 10), **SETTINGS).shape == (2, 26)
        assert patched.adapter.dtype == torch.bfloat16


def test_a_tied_head_stays():
    model = small_model(weight_tying=True)
    assert len(dpad.quantize(model).layers) == 21


@pytest.mark.parametrize("patched_first", [True, False])
def test_patched_models_use_it(patched_first):
    models = [small_model() for _ in range(2)]
    ids = tokens(2, 10)
    by_layers = dpad.quantize(models[0])
    with dpad.patch(models[0]) as handle:
        expected = models[0].generate(ids, **SETTINGS)
        assert dict(handle.rows())["linear"].startswith("8-bit products (")
    del by_layers
    if patched_first:
        with dpad.patch(models[1]) as patched:
            exact = models[1].generate(ids, **SETTINGS)
            with dpad.quantize(models[1]):
                assert torch.equal(models[1].generate(ids, **SETTINGS), expected)
            assert torch.equal(models[1].generate(ids, **SETTINGS), exact)
            assert "8-bit" not in dict(patched.rows())["linear"]
    else:
        with dpad.quantize(models[1]), dpad.patch(models[1]):
            assert torch.equal(models[1].generate(ids, **SETTINGS), expected)


def test_fused_projections_give_way():
    ids = tokens(1, 10)
    model = small_model()
    with dpad.quantize(model), dpad.patch(model):
        expected = model.generate(ids, **SETTINGS)
    with dpad.patch(model, fuse_projections=True) as handle:
        assert handle.adapter.fused.nbytes
        with dpad.quantize(model):
            assert torch.equal(model.generate(ids, **SETTINGS), expected)
            assert handle.adapter.fused.nbytes == 0


def test_a_batch_has_the_bits_of_its_rows(model):
    """Integer sums: a layer's row depends on no other row, at any number of them."""
    dpad.quantize(model)
    layer = model.get_submodule("model.transformer.blocks.1.up_proj")
    x = torch.randn(40, 32)
    with torch.no_grad():
        alone = torch.cat([layer(row[None]) for row in x])
        assert torch.equal(layer(x), alone)


def test_shipped_models_still_count():
    for name in demo.MODELS:
        model, _ = demo.load(name=name)
        dpad.quantize(model)
        problems = demo.problems(20)
        ids = torch.tensor([p.prompt_ids for p in problems])
        with dpad.patch(model):
            out = model.generate(ids, max_new_tokens=96, confidence_threshold=0.9, seed=0)
        right = [p.check(row[ids.shape[1] :]) for p, row in zip(problems, out, strict=True)]
        assert sum(right) >= 17


class Wrapped(nn.Linear):
    pass


def wrap(model):
    model.model.transformer.blocks[1].up_proj.__class__ = Wrapped


def share(model):
    blocks = model.model.transformer.blocks
    blocks[1].up_proj.weight = blocks[0].up_proj.weight


def hook(name):
    def change(model):
        model.get_submodule(name).register_forward_hook(lambda *_: None)

    return change


def tie(model):
    model.config.weight_tying = True
    del model.model.transformer.ff_out


def limit(model):
    model.model.transformer.wte.max_norm = 1.0


def spoil(model):
    model.model.transformer.ff_out.weight.data[5, 5] = float("nan")


ONE = "model.transformer.blocks.1.up_proj"
REFUSED = {
    "scheme": (None, {"scheme": "int4"}, "scheme = 'int4': expected int8"),
    "training": (lambda m: m.train(), {}, "training mode: call model.eval"),
    "again": (dpad.quantize, {}, r"quantised already: remove\(\)"),
    "subclass": (
        wrap,
        {},
        rf"'{ONE}' is a .*test_quantized.Wrapped: only a plain torch.nn.Linear.*LoRA",
    ),
    "hook": (hook(ONE), {}, f"'{ONE}' is a torch.*Linear: only a plain torch.nn.Linear"),
    "shared": (share, {}, "blocks.0.up_proj' is used elsewhere"),
    "not finite": (spoil, {}, "'model.transformer.ff_out': the weight holds a value"),
    "tied": (tie, {"embedding": True}, "embedding = True: .*its head as well"),
    "embedding's hook": (
        hook("model.transformer.wte"),
        {"embedding": True},
        "'model.transformer.wte' is a .*Embedding: only a plain torch.nn.Embedding",
    ),
    "embedding's norm": (limit, {"embedding": True}, "hooks and max_norm"),
    "keep": (None, {"keep": ["model.transformer.wte"]}, "keep names 'model.transformer.wte'"),
    "smoothing of none": (None, {"smoothing": {"x": torch.ones(2)}}, "smoothing names 'x'"),
    "shape": (None, {"smoothing": {ONE: torch.ones(2)}}, rf"'{ONE}' is torch.float32 \[2\]"),
    "sign": (None, {"smoothing": {ONE: -torch.ones(32)}}, "positive and finite"),
    "dtype": (lambda m: m.double(), {}, "float64"),
    "meta": (lambda m: m.to("meta"), {}, "meta device"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_change_nothing(model, name):
    change, options, message = REFUSED[name]
    kept = change and change(model)
    before, config = fingerprint(model), model.config.to_dict()
    with pytest.raises(ValueError, match=message):
        dpad.quantize(model, **options)
    assert fingerprint(model) == before and model.config.to_dict() == config
    del kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 5}, "keep = 5"),
        ({"keep": None}, "keep = None"),
        ({"keep": ONE}, f"keep = '{ONE}': expected names"),
        ({"smoothing": 5}, "smoothing = 5"),
        ({"smoothing": [1]}, r"smoothing = \[1\]"),
        ({"smoothing": {ONE: 5}}, f"smoothing of '{ONE}' = 5"),
        ({"smoothing": {ONE: torch.ones(32, device="meta")}}, f"smoothing of '{ONE}' = tensor"),
        ({"head": "no"}, "head = 'no'"),
        ({"head": None}, "head = None"),
        ({"embedding": 1}, "embedding = 1"),
        ({"keep": [[]]}, r"keep names \[\]"),
        ({"keep": [5, "x"]}, "keep names 5"),
        ({"smoothing": {5: 1, "x": 2}}, "smoothing names 5"),
    ],
)
def test_arguments_of_other_types_are_named(model, options, message):
    before = fingerprint(model)
    with pytest.raises((TypeError, ValueError), match=message):
        dpad.quantize(model, **options)
    assert fingerprint(model) == before


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="torch.nn.Module"):
        dpad.quantize("model")
    with pytest.raises(ValueError, match="does not know Linear"):
        dpad.quantize(nn.Linear(3, 3))


def test_hooks_on_an_mlp_are_refused_and_on_norms_not():
    """A hooked MLP is called whole: its layers would be passed over."""
    model, _ = demo.load(name="tiny_dream")
    model.model.layers[0].input_layernorm.register_forward_hook(lambda *_: None)
    with dpad.quantize(model) as handle:
        assert len(handle.layers) == 7 * len(model.model.layers) + 1
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    with pytest.raises(
        ValueError, match=r"'model.layers.1.mlp' is a dpad.*DecoderMLP: only a plain"
    ):
        dpad.quantize(model)


def test_a_layer_that_was_exchanged_since_is_not_undone(model):
    handle = dpad.quantize(model)
    block = model.model.transformer.blocks[0]
    inner = block.up_proj
    block.up_proj = nn.Sequential(inner)
    with pytest.raises(RuntimeError, match="blocks.0.up_proj' is a Sequential"):
        handle.remove()
    assert handle.active and isinstance(block.ff_out, Int8Linear)
    block.up_proj = inner
    handle.remove()
    assert not small_layers(model)
