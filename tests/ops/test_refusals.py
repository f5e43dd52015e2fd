"""Bad arguments: RuntimeError with operator, argument and value, and nothing was changed."""

import re

import bad_layers
import bad_planning
import bad_routing
import bad_sampling
import pytest
import torch
from op_helpers import assert_same_bits, call
from op_samples import NAMES, WRITTEN, sample

from dpad import ops
from dpad.ops._signatures import COUNTS, SIGNATURES

BAD = {**bad_planning.BAD, **bad_layers.BAD, **bad_routing.BAD, **bad_sampling.BAD}
CASES = [(name, *bad) for name in NAMES for bad in BAD[name]]


@pytest.mark.parametrize(
    ("name", "changes", "argument", "value"),
    CASES,
    ids=[f"{n}-{i}-{a}" for i, (n, _, a, _) in enumerate(CASES)],
)
def test_bad_arguments(name, changes, argument, value):
    args = sample(name)
    good = dict(args)
    for key, change in changes.items():
        args[key] = change(good) if callable(change) else change
    tensors = [v for v in (*good.values(), *args.values()) if isinstance(v, torch.Tensor)]
    before = [t.clone() for t in tensors]
    with pytest.raises(RuntimeError) as refusal:
        call(name, args)
    text = str(refusal.value)
    assert re.search(rf"dpad::{name}: argument '{argument}'.*{value}", text), text
    for tensor, held in zip(tensors, before, strict=True):
        assert_same_bits(tensor, held)


def seen_by_fakes(name, changes, argument, value):
    """True where a dtype or a shape is wrong, which needs no look at values or strides."""
    if argument not in changes and not re.search(r"\[|expected", value):
        return False  # a shape that is right by itself, and then values that are wrong
    if (name, argument) == ("confidence", "suppress"):
        return "dtype" in value
    good = sample(name)
    for key, change in changes.items():
        bad = change(good) if callable(change) else change
        if isinstance(bad, torch.Tensor):
            held = good[key]
            if held is None or bad.dtype != held.dtype or bad.shape != held.shape:
                return True
        elif key in COUNTS:
            return True
    return False


@pytest.mark.parametrize(
    ("name", "changes", "argument", "value"), [case for case in CASES if seen_by_fakes(*case)]
)
def test_fakes_refuse_the_same(name, changes, argument, value):
    """On the meta device, in the kernel's words."""
    args = sample(name)
    args.update({k: c(args) if callable(c) else c for k, c in changes.items()})
    on_meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in args.items()}
    with pytest.raises(RuntimeError) as refusal:
        getattr(torch.ops.dpad, name)(*on_meta.values())
    text = str(refusal.value)
    assert re.search(rf"dpad::{name}: argument '{argument}'.*{value}", text), text


TENSORS = [
    (name, key) for name in NAMES for key, v in sample(name).items() if isinstance(v, torch.Tensor)
]


def refused_unchanged(name, args, text):
    """The call is refused with this text, and leaves every argument as it was."""
    before = {k: v.clone() for k, v in args.items() if isinstance(v, torch.Tensor) and v.is_cpu}
    with pytest.raises(RuntimeError, match=text):
        getattr(torch.ops.dpad, name)(*args.values())
    for key, held in before.items():
        assert_same_bits(args[key].resolve_neg(), held.resolve_neg())


@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_a_meta_tensor_beside_others_is_refused(name, argument):
    args = sample(name)
    args[argument] = args[argument].to("meta")
    refused_unchanged(
        name, args, rf"dpad::{name}: argument '\w+' is not on the device of the first"
    )


@pytest.mark.parametrize(("name", "argument"), TENSORS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_none_in_a_tensors_place_is_refused(name, argument, device):
    args = sample(name)
    if next(o for o in SIGNATURES[name].operands if o.name == argument).optional:
        pytest.skip("may be None")
    args = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in args.items()}
    args[argument] = None
    refused_unchanged(
        name, args, rf"dpad::{name}: argument '{argument}' is None, expected a tensor"
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_tensor_is_refused_by_name(name):
    """By the public functions as well."""
    args = sample(name)
    for operand in SIGNATURES[name].operands:
        for value in ([1.0], "text", 3, None):
            if value is None and operand.optional:
                continue
            with pytest.raises(RuntimeError, match=rf"dpad::{name}.*'{operand.name}'"):
                getattr(ops, name)(**{**args, operand.name: value})


@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name in WRITTEN for argument in WRITTEN[name]]
)
def test_views_with_their_sign_turned_are_not_written(name, argument):
    """torch's own way fails after it has written; a read argument of that kind works."""
    args = sample(name)
    args[argument] = torch._neg_view(args[argument])
    refused_unchanged(
        name, args, rf"dpad::{name}: argument '{argument}' is written and a view with"
    )


def test_views_with_their_sign_turned_are_read():
    turned, plain = sample("add_rms_norm_"), sample("add_rms_norm_")
    turned["delta"] = torch._neg_view(turned["delta"])
    plain["delta"] = -plain["delta"]
    assert_same_bits(call("add_rms_norm_", turned), call("add_rms_norm_", plain))
    assert_same_bits(turned["residual"], plain["residual"])


FLOATS = {
    "rope_kv_write_": ("q", "k", "v", "k_cache", "v_cache"),
    "block_attention": ("q", "k_cache", "v_cache"),
    "add_rms_norm_": ("residual", "delta", "weight"),
    "swiglu": ("gate", "up"),
    "linear": ("x", "weight", "bias"),
    "route": ("logits", "bias"),
    "grouped_linear": ("x", "weight"),
    "grouped_swiglu": ("x", "gate", "up"),
    "combine": ("y", "weight"),
    "int8_linear": ("x", "scale", "bias", "smoothing"),
    "confidence": ("logits",),
}


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n in FLOATS for a in FLOATS[n]])
def test_gradients_are_refused(name, argument):
    """While gradients are recorded; under no_grad and inference_mode the same call works."""
    args = sample(name)
    args[argument].requires_grad_()
    before = {k: v.detach().clone() for k, v in args.items() if isinstance(v, torch.Tensor)}
    with pytest.raises(RuntimeError, match=rf"dpad\.ops\.{name} is for inference only.*no_grad"):
        call(name, args)
    for key, held in before.items():
        assert_same_bits(args[key].detach(), held)
    for allowed in (torch.no_grad, torch.inference_mode):
        with allowed():
            out = call(name, args)
        first = out[0] if isinstance(out, tuple) else out
        assert not first.requires_grad
    for written in WRITTEN.get(name, ()):
        assert not torch.equal(args[written].detach(), before[written])


def test_unknown_instruction_sets():
    before = ops.cpu_isa()
    with pytest.raises(RuntimeError, match="set_cpu_isa: argument 'name' = \"sse\""):
        ops.set_cpu_isa("sse")
    assert ops.cpu_isa() == before
