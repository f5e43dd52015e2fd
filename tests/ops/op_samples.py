"""One valid call of every operator: `dpad.ops.inputs`, with chosen values where tests name them."""

import torch
from op_helpers import generator, offsets_of

from dpad.ops import inputs

WRITTEN = inputs.WRITTEN


def ints(*values):
    return torch.tensor(values, dtype=torch.int64)


def suffix_table(dtype):
    table = {"kind": "gaussian", "grid": "repo", "window": 16, "decay": 3.0, "scale": 1.6}
    return {**table, "count": 0.0, "near": 2, "length": 20}


def transfer_schedule(dtype):
    return {"masks": 32, "steps": 5}


def suffix_sample(dtype):
    keys = {"seed": ints(11, -3), "row_key": ints(0, 7), "block": ints(1, 2), "redraw": ints(0, 3)}
    ends = {"end": ints(24, 40), "total": ints(64, 44)}
    table = {k: v for k, v in suffix_table(dtype).items() if k != "length"}
    return {**keys, **ends, **table, "keep_last": True, "length": 40}


def plan_pass(dtype):
    block = {"start": ints(3, 0), "end": ints(6, 2)}
    kept = {"kept": ints(7, 9, 3), "kept_count": ints(2, 1)}
    rows = {"scope": ints(1, 0), "first": ints(1, 0), "first_target": ints(4, 0)}
    rows |= {"unseen": ints(1, 0), "predecessor": ints(1, 0)}
    return {**block, **kept, **rows, "shift": 1, "block_length": 4}


def suffix_gather(dtype):
    return {
        "canvas": torch.arange(36).view(3, 12),
        "canvas_row": ints(2, 0),
        "q_offsets": ints(0, 3, 5),
        "position": ints(0, 4, 11, 2, 9),
        "hidden_until": ints(0, 5),
        "mask_id": 99,
    }


def rope_kv_write_(dtype):
    g = generator(0)
    half = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    angles = torch.rand(16, 4, generator=g) * 6
    return {
        "q": half(5, 4, 8),
        "k": half(5, 2, 8),
        "v": half(5, 2, 8),
        "q_position": ints(3, 4, 15, 0, 1),
        "position": ints(3, 4, 15, 0, 1),
        "slot": ints(3, 4, 5, -1, 1),
        "q_offsets": ints(0, 3, 5),
        "kv_start": ints(12, 1),
        "cos": angles.cos(),
        "sin": angles.sin(),
        "k_cache": half(2, 18, 8),
        "v_cache": half(2, 18, 8),
        "full_precision": True,
    }


def block_attention(dtype):
    g = generator(1)
    half = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    return {
        "q": half(5, 4, 8),
        "k_cache": half(2, 18, 8),
        "v_cache": half(2, 18, 8),
        "q_offsets": ints(0, 3, 5),
        "kv_start": ints(12, 1),
        "n_keys": ints(6, 4),
        "scale": 8**-0.5,
        "key_mask": torch.rand(18, generator=g) < 0.8,
        "key_limit": ints(3, 4, 6, 4, 0),
    }


def add_rms_norm_(dtype):
    return inputs.make("add_rms_norm_", 0, dtype)


def swiglu(dtype):
    return inputs.make("swiglu", 0, dtype)


def linear(dtype):
    return inputs.make("linear", 0, dtype)


def route(dtype):
    g = generator(7)
    options = {"top_k": 3, "score": "sigmoid", "normalise": True, "groups": 4, "top_groups": 2}
    bias = 0.1 * torch.randn(12, generator=g)
    logits = torch.randn(5, 12, generator=g).to(dtype)
    return {"logits": logits, "bias": bias, **options, "scaling": 2.5}


def grouped_linear(dtype):
    g = generator(8)
    sizes = {"x": (5, 16), "weight": (3, 7, 16)}
    args = {k: torch.randn(size, generator=g).to(dtype) for k, size in sizes.items()}
    return {**args, "offsets": torch.tensor([2, 2, 5], dtype=torch.int32)}


def grouped_swiglu(dtype):
    return inputs.make("grouped_swiglu", 0, dtype)


def combine(dtype):
    g = generator(9)
    y = torch.randn(6, 33, generator=g).to(dtype)
    rows = {"order": ints(3, 0, 5, 1, 4, 2), "weight": torch.rand(3, 2, generator=g)}
    return {"y": y, **rows, "full_precision": False, "round_weights": True}


def int8_linear(dtype):
    return inputs.make("int8_linear", 0, dtype)


def confidence(dtype):
    g = generator(4)
    return {
        "logits": (3 * torch.randn(5, 67, generator=g)).to(dtype),
        "l_offsets": ints(0, 3, 5),
        "position": ints(10, 11, 12, 4, 5),
        "rng": ints(1, 0, 0, 1, 1, 3).view(2, 3),
        "temperature": torch.tensor([0.0, 0.7], dtype=torch.float64),
        "suppress": ints(66),
        "exclude": ints(66, 2),
        "noise": None,
        "round_to_dtype": False,
    }


def uniform(dtype):
    rng = ints(1, 0, 0, -5, 2**40, 3).view(2, 3)
    return {"rng": rng, "l_offsets": ints(0, 3, 5), "position": ints(10, 11, 12, 4, 5)}


def unmask_(dtype):
    g = generator(5)
    canvas = torch.randint(0, 90, (3, 12), generator=g)
    canvas[2, 3:9] = 99
    canvas[0, 1:3] = 99
    score = torch.rand(5, generator=g, dtype=torch.float64)
    return {
        "canvas": canvas,
        "committed_at": torch.full((3, 12), -1),
        "committed": torch.zeros(3, 12, dtype=torch.float64),
        "masks_left": ints(3, 0, 2),
        "status": ints(0, 0, 0),
        "forward": ints(4, 0, 9),
        "canvas_row": ints(2, 0),
        "l_offsets": ints(0, 3, 5),
        "position": ints(3, 4, 5, 1, 2),
        "token": ints(7, 8, 2, 1, 3),
        "score": score,
        "probability": score / 2,
        "rule_value": torch.tensor([0.5, 0.0], dtype=torch.float64),
        "quota": ints(2, 1),
        "length": ints(12, 8),
        "end_ids": ints(1, 2),
        "rule": 0,
        "early_stop": 1,
        "mask_id": 99,
        "fill_id": 2,
    }


_SAMPLES = (
    suffix_table,
    transfer_schedule,
    suffix_sample,
    plan_pass,
    suffix_gather,
    rope_kv_write_,
    block_attention,
    add_rms_norm_,
    swiglu,
    linear,
    route,
    grouped_linear,
    grouped_swiglu,
    combine,
    int8_linear,
    confidence,
    uniform,
    unmask_,
)
NAMES = tuple(f.__name__ for f in _SAMPLES)
_BY_NAME = dict(zip(NAMES, _SAMPLES, strict=True))


def sample(name, dtype=torch.float32):
    """Fresh arguments of a valid call of operator `name`."""
    return _BY_NAME[name](dtype)


def ragged(counts):
    """q_offsets of sequences with these row counts, and the sequence of each row."""
    offsets = offsets_of(counts)
    return offsets, torch.repeat_interleave(torch.arange(len(counts)), offsets.diff())
