"""Bad arguments: RuntimeError with operator, argument and value, and nothing was changed."""

import math
import re
import subprocess
import sys
import time

import pytest
import torch
from op_helpers import assert_same_bits, call
from op_samples import NAMES, WRITTEN, ints, sample

from dpad import ops
from dpad.ops._signatures import COUNTS, SIGNATURES

NAN = float("nan")


def part(name, *index):
    """The argument `name`, narrowed."""
    return lambda args: args[name][index]


def with_value(name, index, value):
    """The argument `name` with one element replaced."""

    def change(args):
        changed = args[name].clone()
        changed.view(-1)[index] = value
        return changed

    return change


def wider(name):
    """The argument `name` as every second element of a wider tensor."""
    return lambda args: args[name].repeat_interleave(2, -1)[..., ::2]


def expanded(name):
    """The argument `name` with its first row everywhere."""
    return lambda args: args[name][:1].expand_as(args[name])


def same(name):
    """The argument `name` itself, in another place."""
    return lambda args: args[name]


def inside(name, shape):
    """A part of the argument `name` as a tensor of that shape."""
    return lambda args: args[name].flatten()[: math.prod(shape)].view(shape)


def inside_bytes(name, like):
    """A copy of the argument `like` that lies in the memory of the argument `name`."""

    def change(args):
        values = args[like]
        size = values.numel() * values.element_size()
        there = args[name].view(torch.uint8).flatten()[:size].view(values.dtype)
        return there.view(values.shape).copy_(values)

    return change


def wrong_dtype(*names, value=torch.int32):
    return [({n: lambda a, n=n: a[n].to(value)}, n, "has dtype") for n in names]


def wrong_size(*names):
    return [({n: part(n, slice(1))}, n, "has shape") for n in names]


LARGEST = 2**63 - 1
TOO_DEEP = {n: lambda a, n=n: a[n].new_zeros(len(a[n]), 65537) for n in ("x", "weight")}
HALVES = torch.float64, torch.int64

TABLE = [
    ({"kind": "cauchy"}, "kind", "cauchy"),
    ({"grid": "other"}, "grid", "other"),
    ({"near": -1}, "near", "-1"),
    ({"window": 0}, "window", "0"),
    ({"decay": 0.0}, "decay", "0"),
    ({"decay": math.inf}, "decay", "inf"),
    ({"scale": NAN}, "scale", "nan"),
    ({"scale": -1.0, "count": 17.0}, "count", "17"),
    ({"scale": -1.0, "count": -2.0}, "count", "-2"),
    ({"kind": "uniform", "count": 1.5}, "count", r"1\.5"),
    ({"kind": "uniform", "count": -1.0}, "count", "-1"),
    ({"kind": "uniform", "count": NAN}, "count", "nan"),
    ({"kind": "window", "window": -3}, "window", "-3"),
    ({"length": -4}, "length", "-4"),
    # Refused at once, where hours of work or all memory would be asked for.
    ({"length": 2**24 + 1}, "length", "16777217"),
    ({"length": 2**62}, "length", "4611686018427387904"),
    ({"window": 2**24 + 1}, "window", "16777217"),
    ({"window": 2**40, "scale": -1.0, "count": 10.0}, "window", "1099511627776"),
]
BAD = {
    "suffix_table": TABLE,
    "transfer_schedule": [
        ({"masks": -1}, "masks", "-1"),
        ({"steps": 0}, "steps", "0"),
        ({"steps": 2**33}, "steps", "8589934592"),
    ],
    "suffix_sample": [
        *TABLE,
        *wrong_dtype("seed", "row_key", "block", "redraw", "end", "total"),
        *wrong_size("row_key", "block", "redraw", "end", "total"),
        ({"seed": ints(0, 7)[None]}, "seed", r"\[1, 2\]"),
        ({"end": ints(-5, 40), "total": ints(-2, 44)}, "end", "-5"),
        ({"end": ints(24, LARGEST), "total": ints(64, -(2**63))}, "total", r"-9223372"),
        ({"total": ints(64, 39)}, "total", "39"),
        ({"total": ints(65, 44)}, "total", "65"),
    ],
    "plan_pass": [
        *wrong_dtype("start", "end", "kept", "kept_count", "scope", "first", "first_target"),
        *wrong_dtype("unseen", "predecessor"),
        *wrong_size("end", "kept_count", "scope", "first", "first_target"),
        *wrong_size("unseen", "predecessor"),
        ({"kept": ints(7, 9, 3)[None]}, "kept", r"\[1, 3\]"),
        ({"kept": ints(7, 9)}, "kept_count", "1"),  # fewer than are counted
        ({"kept_count": ints(1, 1)}, "kept", "3"),  # more
        ({"unseen": ints(3, 0)}, "unseen", "3"),
        ({"unseen": ints(0, -1)}, "unseen", "-1"),
        ({"predecessor": ints(1, 2)}, "predecessor", "2"),
        ({"predecessor": ints(-1, 0)}, "predecessor", "-1"),
        ({"first": ints(4, 0)}, "first", "4"),
        ({"first": ints(3, -1)}, "first", "-1"),
        ({"first_target": ints(7, 0)}, "first_target", "7"),
        ({"first_target": ints(2, 0)}, "first_target", "2"),
        ({"block_length": -1}, "block_length", "-1"),
        ({"block_length": 2**41}, "block_length", "2199023255552"),
        ({"start": ints(3, 2**40)}, "start", "1099511627776"),
        ({"end": ints(6, LARGEST)}, "end", r"9223372"),
        (
            {"end": ints(6, 2**40), "kept": ints(7, 9, 11), "kept_count": ints(3, 0)},
            "end",
            "1099511627776: expected a pass",
        ),
        ({"kept": with_value("kept", 1, LARGEST)}, "kept", r"9223372"),
        ({"start": ints(-2, 0)}, "start", "-2"),
        ({"end": ints(6, 0)}, "end", "0"),
        ({"scope": ints(1, 3)}, "scope", "3"),
        ({"scope": ints(-1, 0)}, "scope", "-1"),
        ({"kept_count": ints(4, 1)}, "kept_count", "4"),
        ({"kept_count": ints(2, -1)}, "kept_count", "-1"),
        ({"kept": with_value("kept", 0, 5)}, "kept", "5"),
        ({"kept": with_value("kept", 1, 7)}, "kept", "7"),
        ({"shift": 2}, "shift", "2"),
        ({"shift": -1}, "shift", "-1"),
    ],
    "suffix_gather": [
        *wrong_dtype("canvas", "canvas_row", "q_offsets", "position", "hidden_until"),
        *wrong_size("q_offsets", "hidden_until"),
        ({"canvas": torch.arange(36)}, "canvas", r"\[36\]"),
        ({"canvas_row": ints(2, 3)}, "canvas_row", "3"),
        ({"canvas_row": ints(-1, 0)}, "canvas_row", "-1"),
        ({"position": with_value("position", 2, 12)}, "position", "12"),
        ({"position": with_value("position", 4, -1)}, "position", "-1"),
        ({"q_offsets": ints(0, 3, 4)}, "q_offsets", "5"),
        ({"q_offsets": ints(1, 3, 5)}, "q_offsets", "5"),
        ({"q_offsets": ints(0, 6, 5)}, "q_offsets", "5"),
    ],
    "rope_kv_write_": [
        *[({"q": lambda a, d=d: a["q"].to(d)}, "q", "has dtype") for d in HALVES],
        *wrong_dtype("k", "v", "k_cache", "v_cache", value=torch.float16),
        *wrong_dtype("cos", "sin", value=torch.bfloat16),
        *wrong_dtype("q_position", "position", "slot", "q_offsets", "kv_start"),
        *wrong_size("v", "sin", "q_position", "position", "slot", "q_offsets", "v_cache"),
        ({"q": part("q", 0)}, "q", r"\[4, 8\]"),
        ({"k": part("k", ..., slice(4))}, "k", r"\[5, 2, 4\]"),
        ({"v": part("v", slice(None), slice(1))}, "v", r"\[5, 1, 8\]"),
        ({"k_cache": part("k_cache", slice(1))}, "k_cache", r"\[1, 18, 8\]"),
        ({"v_cache": part("v_cache", ..., slice(5), slice(None))}, "v_cache", r"\[2, 5, 8\]"),
        ({"cos": torch.ones(16, 5), "sin": torch.ones(16, 5)}, "cos", "5"),
        ({"cos": torch.empty(0, 2**62), "sin": torch.empty(0, 2**62)}, "cos", r"4611686"),
        ({"k_cache": wider("k_cache")}, "k_cache", "stride 2"),
        ({"v_cache": wider("v_cache")}, "v_cache", "stride 2"),
        ({"k_cache": expanded("k_cache")}, "k_cache", "overlap"),
        ({"v_cache": expanded("v_cache")}, "v_cache", "overlap"),
        ({"v_cache": same("k_cache")}, "k_cache", "shares memory with 'v_cache'"),
        ({"q": inside("k_cache", (5, 4, 8))}, "k_cache", "shares memory with 'q'"),
        ({"k": inside("k_cache", (5, 2, 8))}, "k_cache", "shares memory with 'k'"),
        ({"v": inside("v_cache", (5, 2, 8))}, "v_cache", "shares memory with 'v'"),
        *[
            ({name: inside_bytes(cache, name)}, cache, f"shares memory with '{name}'")
            for name in ("q_position", "position", "slot", "q_offsets", "kv_start", "cos", "sin")
            for cache in ("k_cache", "v_cache")
        ],
        ({"q_position": with_value("q_position", 0, 16)}, "q_position", "16"),
        ({"position": with_value("position", 1, -1)}, "position", "-1"),
        ({"slot": with_value("slot", 4, 18)}, "slot", "18"),
        ({"slot": with_value("slot", 4, 17)}, "slot", r"\[4\] = 17: expected a slot of the arena"),
        ({"slot": with_value("slot", 0, -2)}, "slot", "-2"),
        ({"slot": with_value("slot", 0, 4)}, "slot", r"\[1\] = 4: slot 16 .* row 0"),
        ({"kv_start": ints(3, 5)}, "slot", r"\[4\] = 1: slot 6 .* row 0"),
        ({"kv_start": ints(19, 0)}, "kv_start", "19"),
        ({"kv_start": ints(-1, 0)}, "kv_start", "-1"),
        ({"kv_start": ints(3, LARGEST)}, "kv_start", str(LARGEST)),
        ({"q_offsets": ints(0, 3, 6)}, "q_offsets", "5"),
    ],
    "block_attention": [
        *[({"q": lambda a, d=d: a["q"].to(d)}, "q", "has dtype") for d in HALVES],
        *wrong_dtype("k_cache", "v_cache", value=torch.float16),
        *wrong_dtype("q_offsets", "kv_start", "n_keys", "key_limit", "key_mask"),
        *wrong_size("q_offsets", "n_keys", "key_mask", "key_limit", "v_cache"),
        ({"q": part("q", 0)}, "q", r"\[4, 8\]"),
        ({"k_cache": part("k_cache", ..., slice(4))}, "k_cache", r"\[2, 18, 4\]"),
        ({"v_cache": part("v_cache", ..., slice(5), slice(None))}, "v_cache", r"\[2, 5, 8\]"),
        ({"q": part("q", slice(None), slice(3))}, "k_cache", "2: expected kv heads"),
        ({"k_cache": wider("k_cache")}, "k_cache", "stride 2"),
        ({"v_cache": wider("v_cache")}, "v_cache", "stride 2"),
        ({"kv_start": ints(2, 19)}, "kv_start", "19"),
        ({"kv_start": ints(-1, 0)}, "kv_start", "-1"),
        ({"kv_start": ints(13, 0)}, "n_keys", r"\[0\] = 6"),
        ({"n_keys": ints(7, 4)}, "n_keys", "7"),
        ({"n_keys": ints(6, LARGEST)}, "n_keys", r"9223372"),
        ({"n_keys": ints(6, -1)}, "n_keys", "-1"),
        ({"q_offsets": ints(0, 3, 4)}, "q_offsets", "5"),
    ],
    "add_rms_norm_": [
        *[({"residual": lambda a, d=d: a["residual"].to(d)}, "residual", "dtype") for d in HALVES],
        *wrong_dtype("delta", "weight", value=torch.float16),
        *wrong_size("delta", "weight"),
        ({"residual": part("residual", 0)}, "residual", r"\[33\]"),
        ({"residual": wider("residual")}, "residual", "stride 2"),
        ({"residual": expanded("residual")}, "residual", "overlap"),
        ({"delta": same("residual")}, "residual", "shares memory with 'delta'"),
        ({"weight": part("residual", 4)}, "residual", "shares memory with 'weight'"),
    ],
    "swiglu": [
        *[({"gate": lambda a, d=d: a["gate"].to(d)}, "gate", "has dtype") for d in HALVES],
        *wrong_dtype("up", value=torch.bfloat16),
        *wrong_size("up"),
        ({"gate": part("gate", 0)}, "gate", r"\[33\]"),
        ({"up": part("up", ..., slice(32))}, "up", r"\[5, 32\]"),
    ],
    "linear": [
        *[({"x": lambda a, d=d: a["x"].to(d)}, "x", "has dtype") for d in HALVES],
        *wrong_dtype("weight", "bias", value=torch.float16),
        *wrong_size("bias"),
        ({"x": part("x", 0)}, "x", r"\[33\]"),
        ({"weight": part("weight", 0)}, "weight", r"\[33\]"),
        ({"weight": part("weight", ..., slice(32))}, "weight", r"\[21, 32\]"),
        ({"weight": part("weight", slice(20))}, "bias", r"\[21\]"),
    ],
    "route": [
        *[({"logits": lambda a, d=d: a["logits"].to(d)}, "logits", "has dtype") for d in HALVES],
        *wrong_dtype("bias", value=torch.bfloat16),
        *wrong_size("bias"),
        ({"logits": part("logits", 0)}, "logits", r"\[12\]"),
        ({"score": "sparsemax"}, "score", "sparsemax"),
        ({"top_k": 0}, "top_k", "0"),
        ({"top_k": 7}, "top_k", "7"),  # of the 6 experts of two groups
        ({"groups": 0}, "groups", "0"),
        ({"groups": 5}, "groups", "5"),
        ({"groups": 12, "top_groups": 9}, "groups", "12"),
        ({"groups": 13}, "groups", "13"),
        ({"top_groups": 0}, "top_groups", "0"),
        ({"top_groups": 5}, "top_groups", "5"),
        ({"scaling": NAN}, "scaling", "nan"),
        ({"scaling": math.inf}, "scaling", "inf"),
        ({"logits": part("logits", ..., slice(0))}, "groups", "4"),
    ],
    "grouped_linear": [
        *[({"x": lambda a, d=d: a["x"].to(d)}, "x", "has dtype") for d in HALVES],
        *wrong_dtype("weight", value=torch.float16),
        *wrong_dtype("offsets", value=torch.int64),
        *wrong_size("offsets"),
        ({"x": part("x", 0)}, "x", r"\[16\]"),
        ({"weight": part("weight", 0)}, "weight", r"\[7, 16\]"),
        ({"weight": part("weight", ..., slice(15))}, "weight", r"\[3, 7, 15\]"),
        ({"offsets": with_value("offsets", 0, 3)}, "offsets", "2"),
        ({"offsets": with_value("offsets", 0, -1)}, "offsets", "-1"),
        ({"offsets": with_value("offsets", 2, 6)}, "offsets", "6"),
        ({"offsets": with_value("offsets", 2, 4)}, "offsets", "4"),
    ],
    "combine": [
        *[({"y": lambda a, d=d: a["y"].to(d)}, "y", "has dtype") for d in HALVES],
        *wrong_dtype("order"),
        *wrong_dtype("weight", value=torch.float64),
        *wrong_size("order"),
        ({"y": part("y", 0)}, "y", r"\[33\]"),
        ({"y": part("y", slice(5))}, "y", r"\[5, 33\]"),
        ({"weight": part("weight", 0)}, "weight", r"\[2\]"),
        ({"weight": part("weight", slice(2))}, "order", r"\[6\]"),
        ({"order": with_value("order", 1, 6)}, "order", "6"),
        ({"order": with_value("order", 1, -1)}, "order", "-1"),
        ({"order": with_value("order", 1, 3)}, "order", "3: expected every pair once"),
    ],
    "int8_linear": [
        *[({"x": lambda a, d=d: a["x"].to(d)}, "x", "has dtype") for d in HALVES],
        *wrong_dtype("weight", "bias", "scale", "smoothing", value=torch.float16),
        *wrong_size("bias", "scale", "smoothing"),
        ({"x": part("x", 0)}, "x", r"\[33\]"),
        ({"weight": part("weight", 0)}, "weight", r"\[33\]"),
        ({"weight": part("weight", ..., slice(32))}, "weight", r"\[21, 32\]"),
        ({**TOO_DEEP, "smoothing": None}, "x", "65537 features: at most 65536"),
    ],
    "confidence": [
        *[({"logits": lambda a, d=d: a["logits"].to(d)}, "logits", "has dtype") for d in HALVES],
        *wrong_dtype("l_offsets", "position", "rng", "suppress", "exclude"),
        *wrong_dtype("temperature", value=torch.float32),
        *wrong_size("l_offsets", "position", "rng"),
        ({"logits": part("logits", 0)}, "logits", r"\[67\]"),
        ({"rng": part("rng", slice(None), slice(2))}, "rng", r"\[2, 2\]"),
        ({"temperature": with_value("temperature", 1, -0.5)}, "temperature", r"-0\.5"),
        ({"temperature": with_value("temperature", 0, NAN)}, "temperature", "nan"),
        ({"temperature": with_value("temperature", 0, math.inf)}, "temperature", "inf"),
        ({"l_offsets": ints(0, 3, 4)}, "l_offsets", "5"),
        ({"suppress": ints(67)}, "suppress", "67"),
        ({"suppress": ints(-1)}, "suppress", "-1"),
        ({"exclude": ints(2, 70)}, "exclude", "70"),
        ({"suppress": torch.arange(67)}, "suppress", "67"),
        ({"noise": torch.zeros(5, 67)}, "noise", "has dtype"),
        ({"noise": torch.zeros(5, 66).double()}, "noise", r"\[5, 66\]"),
    ],
    "uniform": [
        *wrong_dtype("rng", "l_offsets", "position"),
        *wrong_size("l_offsets"),
        ({"rng": part("rng", slice(1))}, "l_offsets", r"\[3\], expected \[2\]"),
        ({"rng": part("rng", slice(None), slice(2))}, "rng", r"\[2, 2\]"),
        ({"position": ints(1, 2, 3, 4)}, "l_offsets", "4"),
        ({"l_offsets": ints(0, 6, 5)}, "l_offsets", "5"),
    ],
    "unmask_": [
        *wrong_dtype("canvas", "committed_at", "masks_left", "status", "forward"),
        *wrong_dtype("canvas_row", "l_offsets", "position", "token", "quota", "length", "end_ids"),
        *wrong_dtype("committed", "score", "probability", "rule_value", value=torch.float32),
        *wrong_size("committed_at", "committed", "masks_left", "status", "forward"),
        *wrong_size("l_offsets", "token", "score", "probability", "rule_value", "quota", "length"),
        ({"canvas": part("canvas", 0)}, "canvas", r"\[12\]"),
        ({"canvas": expanded("canvas")}, "canvas", "not contiguous"),
        ({"status": lambda a: a["status"].repeat_interleave(2)[::2]}, "status", "not contiguous"),
        ({"committed_at": same("canvas")}, "canvas", "shares memory with 'committed_at'"),
        ({"forward": same("status")}, "status", "shares memory with 'forward'"),
        ({"token": inside("canvas", (5,))}, "canvas", "shares memory with 'token'"),
        ({"length": inside("masks_left", (2,))}, "masks_left", "shares memory with 'length'"),
        ({"canvas_row": ints(2, 3)}, "canvas_row", "3"),
        ({"canvas_row": ints(2, 2)}, "canvas_row", "2 stands there twice"),
        ({"position": with_value("position", 3, 12)}, "position", "12"),
        ({"position": with_value("position", 3, -1)}, "position", "-1"),
        ({"position": with_value("position", 4, 8)}, "position", r"\[4\] = 8: .* length"),
        ({"position": with_value("position", 1, 3)}, "position", r"\[1\] = 3: .* differ"),
        ({"forward": with_value("forward", 2, LARGEST)}, "forward", r"\[2\] = 9223372"),
        ({"length": ints(13, 8)}, "length", "13"),
        ({"length": ints(12, -1)}, "length", "-1"),
        ({"l_offsets": ints(0, 3, 6)}, "l_offsets", "5"),
        ({"token": with_value("token", 3, 99)}, "token", "99"),
        ({"rule": 8}, "rule", "8"),
        ({"early_stop": 3}, "early_stop", "3"),
        ({"rule": -1}, "rule", "-1"),
    ],
}
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


def test_sizes_without_work_take_no_time():
    """[2^40, 0]: nothing to compute, and nothing is."""
    begun = time.perf_counter()
    rows = torch.empty(2**40, 0)
    assert torch.ops.dpad.add_rms_norm_(rows, None, torch.empty(0), 1e-5).shape == rows.shape
    assert torch.ops.dpad.swiglu(rows, rows).shape == rows.shape
    assert torch.ops.dpad.linear(rows, torch.empty(0, 0), None).shape == rows.shape
    assert time.perf_counter() - begun < 1


HUGE = {
    "swiglu": lambda x: (x.expand(4, 2**50), x.expand(4, 2**50)),
    "linear": lambda x: (x.expand(2**50, 1), x.expand(16, 1), None),
}


@pytest.mark.parametrize("name", HUGE)
def test_results_that_memory_cannot_hold(name):
    """The operator and the bytes are named."""
    with pytest.raises(RuntimeError, match=rf"dpad::{name}: out of memory: .* \d{{16,}} bytes"):
        getattr(torch.ops.dpad, name)(*HUGE[name](torch.zeros(1, 1)))


LARGE_HEADS = """
import resource, torch
from dpad import ops
torch.set_num_threads(2)
q = torch.zeros(1, 1, 2**25, dtype=torch.bfloat16)
one = torch.tensor([1])
args = (torch.tensor([0, 1]), torch.tensor([0]), one, 1.0)
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
for _ in range(2):
    try:
        ops.block_attention(q, q, q, *args)
    except RuntimeError as error:
        print(error)
small = torch.ones(1, 1, 8)
assert torch.equal(ops.block_attention(small, small, small, *args), small)
"""


def test_scratch_memory_that_cannot_be_had():
    """Heads of 2^25: 10 GB of scratch memory in 6 GB of addresses. Small calls go on."""
    command = [sys.executable, "-W", "ignore", "-c", LARGE_HEADS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    text = "dpad::block_attention: out of memory: its scratch memory, 10737439744 bytes,"
    assert done.stdout == f"{text} could not be allocated\n" * 2


FLOATS = {
    "rope_kv_write_": ("q", "k", "v", "k_cache", "v_cache"),
    "block_attention": ("q", "k_cache", "v_cache"),
    "add_rms_norm_": ("residual", "delta", "weight"),
    "swiglu": ("gate", "up"),
    "linear": ("x", "weight", "bias"),
    "route": ("logits", "bias"),
    "grouped_linear": ("x", "weight"),
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
