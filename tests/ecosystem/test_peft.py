"""LoRA and its kin on a patched model: the adapters run, and come off again."""

import copy

import pytest
import torch

import dpad
from dpad.models.adapter import UnsupportedModelError
from tests.doubles import remote
from tests.ecosystem.common import FAST, PLAIN, own_forward
from tests.generation.common import META, assert_close, logits

peft = pytest.importorskip("peft", reason="peft is not installed (requirements/ecosystem.txt)")

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "attn_out", "o_proj", "up_proj", "down_proj"]


def lora(**more):
    """A configuration whose adapters are not the identity."""
    more = {"target_modules": PROJECTIONS, "r": 4, **more}
    return peft.LoraConfig(init_lora_weights=False, **more)


def spread(model, amount=0.2):
    """Random adapter weights, large enough to change what is decoded."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, amount, generator=generator)
    return model


def merged(wrapped):
    """The plain model with the adapters merged into its weights."""
    return copy.deepcopy(wrapped).merge_and_unload()


@pytest.mark.parametrize("options", (PLAIN, FAST), ids=("plain", "fast"))
@pytest.mark.parametrize("order", ("wrapper", "inside", "before"))
def test_generate_is_that_of_the_merged_model(model, ids, order, options):
    if order == "before":
        dpad.patch(model)
    plain = dpad.generate(model, ids, **options)
    wrapped = spread(peft.get_peft_model(model, lora()))
    if order == "wrapper":
        dpad.patch(wrapped)
    elif order == "inside":
        dpad.patch(wrapped.base_model.model)
    handle = model._dpad_handle
    got = wrapped.generate(ids, **options)
    assert got.equal(dpad.generate(wrapped, ids, **options))
    handle.remove()
    assert got.equal(dpad.generate(merged(wrapped), ids, **options))
    if options is PLAIN:
        assert got.equal(own_forward(wrapped, ids))
    assert not got.equal(plain)


def test_forward_is_the_unpatched_one(model, ids):
    wrapped = spread(peft.get_peft_model(model, lora()))
    want = logits(wrapped, ids)
    with dpad.patch(wrapped):
        assert_close(logits(wrapped, ids), want)
        with wrapped.disable_adapter():
            assert not torch.allclose(logits(wrapped, ids), want, atol=0.1)
    assert logits(wrapped, ids).equal(want)


def test_adapters_are_switched(model, ids):
    plain = dpad.generate(model, ids, **FAST)
    wrapped = peft.get_peft_model(model, lora())
    wrapped.add_adapter("other", lora(r=2))
    spread(wrapped, 0.3)
    found = {}
    with dpad.patch(wrapped):
        for name in ("default", "other"):
            wrapped.set_adapter(name)
            found[name] = wrapped.generate(ids, **FAST)
            with wrapped.disable_adapter():
                assert wrapped.generate(ids, **FAST).equal(plain)
            assert wrapped.generate(ids, **FAST).equal(found[name])
    for name, tokens in found.items():
        wrapped.set_adapter(name)
        assert dpad.generate(merged(wrapped), ids, **FAST).equal(tokens)
    assert not found["default"].equal(found["other"])


def test_merging_while_patched(model, ids):
    wrapped = spread(peft.get_peft_model(model, lora()))
    want = dpad.generate(merged(wrapped), ids, **FAST)
    handle = dpad.patch(wrapped)
    inner = wrapped.merge_and_unload()
    assert inner is model and inner.generate(ids, **FAST).equal(want)
    handle.remove()
    assert "forward" not in vars(model) and "generate" not in vars(model)


def test_undone_in_either_order(model, ids):
    before, keys = logits(model, ids), list(model.state_dict())
    for last in ("patch", "adapters"):
        wrapped = spread(peft.get_peft_model(model, lora()))
        handle = dpad.patch(wrapped)
        wrapped.generate(ids, **FAST)
        if last == "patch":
            assert wrapped.unload() is model
            handle.remove()
        else:
            handle.remove()
            assert wrapped.unload() is model
        assert logits(model, ids).equal(before)
        assert list(model.state_dict()) == keys
        assert not {"_dpad_handle", "forward", "generate"} & set(vars(model))


def test_embedding_head_and_saved_modules(model, ids):
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    head, embedding = ("ff_out", "wte") if "wte" in names else ("lm_head", "embed_tokens")
    norm = "attn_norm" if "attn_norm" in names else "input_layernorm"
    wrapped = peft.get_peft_model(
        model, lora(target_modules=[head, embedding], modules_to_save=[norm])
    )
    spread(wrapped, 0.1)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "modules_to_save" in name:
                weight.mul_(1.5)
    want = own_forward(wrapped, ids)
    with dpad.patch(wrapped):
        assert wrapped.generate(ids, **PLAIN).equal(want)
        with wrapped.disable_adapter():
            other = wrapped.generate(ids, **PLAIN)
    with wrapped.disable_adapter():
        assert own_forward(wrapped, ids).equal(other)
    assert not other.equal(want)


def test_training_adapters_of_a_patched_model(model, ids):
    wrapped = spread(peft.get_peft_model(model, lora())).train()

    def gradients():
        wrapped.zero_grad()
        wrapped(ids).logits.logsumexp(-1).sum().backward()
        return {n: p.grad.clone() for n, p in wrapped.named_parameters() if p.grad is not None}

    want = gradients()
    assert want and all("lora_" in name for name in want)
    with dpad.patch(wrapped):
        got = gradients()
    assert got.keys() == want.keys()
    assert all(got[name].equal(want[name]) for name in want)


def test_adapters_of_a_patched_model_are_saved_and_loaded(model, ids, tmp_path):
    clone = copy.deepcopy(model)
    wrapped = spread(peft.get_peft_model(model, lora()))
    with dpad.patch(wrapped):
        wrapped.save_pretrained(tmp_path)
        want = wrapped.generate(ids, **FAST)
    assert not list(tmp_path.glob("model*.safetensors"))
    handle = dpad.patch(clone)
    loaded = peft.PeftModel.from_pretrained(clone, tmp_path)
    assert loaded.generate(ids, **FAST).equal(want)
    handle.remove()


def test_wrapper_for_causal_models(weights, ids):
    """The wrapper of this task type has a `generate` of its own around the model's."""
    model = remote.llada_model(META["config"], 2, weights)
    wrapped = spread(peft.get_peft_model(model, lora(task_type="CAUSAL_LM")))
    assert isinstance(wrapped, peft.PeftModelForCausalLM)
    want = own_forward(wrapped, ids)
    with dpad.patch(wrapped):
        assert wrapped.generate(input_ids=ids, **PLAIN).equal(want)
        assert wrapped.generate(ids, **PLAIN).equal(want)


@pytest.mark.parametrize("patched", (False, True))
def test_the_usual_recipe(model, ids, patched):
    """`task_type="CAUSAL_LM"` on the native classes, trained for a step, then decoded."""
    config = peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    if patched:
        dpad.patch(model)
    wrapped = peft.get_peft_model(model, config)
    assert isinstance(wrapped, peft.PeftModelForCausalLM)
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=5.0)
    wrapped.train()
    wrapped(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.square().mean().backward()
    optimizer.step()
    wrapped.eval()
    want = dpad.generate(merged(wrapped), ids, **PLAIN)
    assert want.equal(dpad.generate(wrapped, ids, **PLAIN))
    if not patched:
        with pytest.raises(AttributeError, match="dpad.patch"):
            wrapped.generate(input_ids=ids, **PLAIN)
        dpad.patch(wrapped)
    assert wrapped.generate(input_ids=ids, **PLAIN).equal(want)
    with pytest.raises(ValueError, match="the loss needs the noise level"):
        wrapped(input_ids=ids, labels=ids)
    assert not model.prepare_inputs_for_generation(ids)["attention_mask"]


@pytest.mark.parametrize("way", ("deepcopy", "mixed", "dora"))
def test_other_wrappers(model, ids, way):
    if way == "mixed":
        wrapped = peft.get_peft_model(model, lora(), mixed=True)
    else:
        wrapped = peft.get_peft_model(model, lora(use_dora=way == "dora"))
    spread(wrapped)
    handle = dpad.patch(wrapped)
    want = model.generate(ids, **PLAIN)
    if way == "deepcopy":
        clone = copy.deepcopy(wrapped)
        spread(wrapped, 0.01)
        inner = clone.base_model.model
        assert inner._dpad_handle is not handle and clone.generate(ids, **PLAIN).equal(want)
        assert not wrapped.generate(ids, **PLAIN).equal(want)
        return
    handle.remove()
    assert own_forward(wrapped, ids).equal(want)


def test_what_dpad_does_not_run_is_refused(model, ids):
    sizes = {"num_layers": 3, "token_dim": 64, "num_attention_heads": 4}
    config = peft.PromptTuningConfig("FEATURE_EXTRACTION", num_virtual_tokens=3, **sizes)
    wrapped = peft.get_peft_model(model, config)
    assert not dpad.supports(wrapped)
    with pytest.raises(UnsupportedModelError, match="prompt learning"):
        dpad.patch(wrapped)


def test_norms_that_are_more_than_a_norm_raise(model, ids):
    handle = dpad.patch(model)
    model.generate(ids, **FAST)
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    norm = "attn_norm" if "attn_norm" in names else "input_layernorm"
    wrapped = peft.get_peft_model(model, peft.LNTuningConfig(target_modules=[norm]))
    with pytest.raises(UnsupportedModelError, match=f"'{norm}' is a LNTuningLayer"):
        wrapped.generate(ids, **FAST)
    handle.remove()
    with pytest.raises(UnsupportedModelError, match=norm):
        dpad.patch(wrapped)


def test_adapters_per_row_are_refused_by_peft(model, ids):
    """Rows of a pass are no batch rows: peft counts them and says so."""
    wrapped = spread(peft.get_peft_model(model, lora()))
    with dpad.patch(wrapped), pytest.raises(ValueError, match="adapter_names"):
        wrapped.generate(ids, adapter_names=["default", "__base__"], **FAST)


def test_fused_projections_leave_adapted_layers_out(model, ids):
    handle = dpad.patch(model, fuse_projections=True)
    layers, size = len(handle.adapter.layers), handle.adapter.fused.nbytes
    before = logits(model, ids)
    wrapped = spread(peft.get_peft_model(model, lora(target_modules=["q_proj"])))
    found = logits(model, ids)
    assert f"q, k, v of 0 and gate, up of {layers} of" in dict(handle.rows())["fused"]
    assert not torch.equal(found, before)
    wrapped.merge_and_unload()
    assert_close(logits(model, ids), found)
    assert handle.adapter.fused.nbytes == size
