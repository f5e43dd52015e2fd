"""accelerate's hooks: those that move nothing are no obstacle, offloading is refused."""

import pytest
import torch

import dpad
from dpad.models.adapter import UnsupportedModelError
from tests.ecosystem.common import FAST
from tests.generation.common import assert_close, logits

accelerate = pytest.importorskip(
    "accelerate", reason="accelerate is not installed (requirements/ecosystem.txt)"
)
hooks = accelerate.hooks


def cpu_map(model):
    """A device map with one CPU entry for every module that is placed by itself."""
    return accelerate.infer_auto_device_map(
        model, {"cpu": 2**40}, no_split_module_classes=model._no_split_modules
    )


def split_map(model, last):
    """Everything on the CPU, the last layer elsewhere."""
    name = next(n for n, m in model.named_modules() if type(m).__name__ == "ModuleList")
    owners = {n.rpartition(".")[0] for n, _ in model.named_parameters()}
    places = {n: "cpu" for n in owners if not n.startswith(f"{name}.2.")}
    return {**places, f"{name}.2": last}


@pytest.mark.parametrize("order", ("dispatched first", "patched first"))
def test_dispatched_over_cpu_entries(model, ids, order):
    want, tokens = logits(model, ids), dpad.generate(model, ids, **FAST)
    if order == "patched first":
        handle = dpad.patch(model)
        accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    else:
        accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
        handle = dpad.patch(model)
    assert any(hasattr(m, "_hf_hook") for m in model.modules() if m is not model)
    assert not handle.notes
    assert_close(logits(model, ids), want)
    assert model.generate(ids, **FAST).equal(tokens)
    if order == "dispatched first":
        handle.remove()
        assert hasattr(model, "_hf_hook") and logits(model, ids).equal(want)


def test_hooks_that_were_removed_are_no_obstacle(model, ids):
    want = dpad.generate(model, ids, **FAST)
    accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    hooks.remove_hook_from_submodules(model)
    with dpad.patch(model):
        assert model.generate(ids, **FAST).equal(want)


def test_loaded_with_a_device_map(model, ids, tmp_path):
    want = dpad.generate(model, ids, **FAST)
    model.save_pretrained(tmp_path)
    for places in ("cpu", {"": "cpu"}, cpu_map(model)):
        loaded = type(model).from_pretrained(tmp_path, device_map=places, dtype=torch.float32)
        with dpad.patch(loaded):
            assert loaded.generate(ids, **FAST).equal(want)


def test_offloaded_to_disk_is_refused(model, ids, tmp_path):
    want = logits(model, ids)
    accelerate.dispatch_model(
        model, split_map(model, "disk"), main_device="cpu", offload_dir=str(tmp_path)
    )
    assert not dpad.supports(model)
    for strict in (True, False):
        with pytest.raises(UnsupportedModelError, match="meta device"):
            dpad.patch(model, strict=strict)
    with pytest.raises(UnsupportedModelError, match="meta device"):
        dpad.generate(model, ids, **FAST)
    assert "_dpad_handle" not in vars(model)
    assert_close(logits(model, ids), want)


def test_offloaded_to_the_cpu_is_refused(model, ids):
    accelerate.cpu_offload(model, torch.device("cpu"))
    with pytest.raises(UnsupportedModelError, match="meta device"):
        dpad.patch(model)


def test_offloaded_after_patching_raises(model, ids):
    handle = dpad.patch(model)
    model.generate(ids, **FAST)
    accelerate.cpu_offload(model, torch.device("cpu"))
    with pytest.raises(UnsupportedModelError, match="meta device"):
        model.generate(ids, **FAST)
    handle.remove()


def test_hooks_that_do_something_are_refused_or_reported(model, ids):
    class Doubled(hooks.ModelHook):
        def post_forward(self, module, output):
            return 2 * output

    names = {name.rpartition(".")[2]: name for name, _ in model.named_modules()}
    layer = next(n for n, m in model.named_modules() if isinstance(m, torch.nn.ModuleList)) + ".1"
    hooks.add_hook_to_module(model.get_submodule(layer), Doubled())
    with pytest.raises(UnsupportedModelError, match=layer):
        dpad.patch(model)
    assert not dpad.supports(model) and dpad.supports(model, strict=False)
    with dpad.patch(model, strict=False) as handle:
        assert any(layer in note for note in handle.notes)
    hooks.remove_hook_from_module(model.get_submodule(layer))
    # Where modules are called, hooks run: also norms, which are called for that.
    for called in (names["up_proj"], names.get("attn_norm") or names["input_layernorm"]):
        plain = logits(model, ids)
        hooks.add_hook_to_module(model.get_submodule(called), Doubled())
        want = logits(model, ids)
        with dpad.patch(model):
            assert_close(logits(model, ids), want)
        assert not torch.allclose(want, plain, atol=0.1)
