"""Random calls of the operators: sizes, dtypes, places in memory."""

import contextlib
import random

import torch

from dpad import ops
from dpad.ops import inputs
from tests.ops.op_helpers import DTYPES, Guarded

NAN = float("nan")
KINDS = ("none", "all", "gaussian", "uniform", "window")


def instruction_sets():
    """Those that this processor has."""
    before, found = ops.cpu_isa(), []
    for name in ("portable", "avx2", "avx512"):
        try:
            ops.set_cpu_isa(name)
        except RuntimeError as error:
            if "does not support" not in str(error):
                raise
        else:
            found.append(name)
    ops.set_cpu_isa(before)
    return found


@contextlib.contextmanager
def setting(isa, threads):
    """Within it the operators run on this instruction set and number of threads."""
    before = ops.cpu_isa(), torch.get_num_threads()
    ops.set_cpu_isa(isa)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        ops.set_cpu_isa(before[0])
        torch.set_num_threads(before[1])


@contextlib.contextmanager
def poisoned():
    """Within it new memory holds NaN or the largest integer: what nobody wrote shows up."""
    torch.set_deterministic_debug_mode("warn")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode("default")


def _near(draw, *centres):
    """A size around a boundary of some loop, or a small one."""
    return max(0, draw.choice((0, 1, 2, 3, 5, 7, *centres)) + draw.choice((-1, 0, 0, 1)))


def _counts(draw, most=40, sequences=4):
    return tuple(draw.randint(0, most) for _ in range(draw.randint(0, sequences)))


def _table(draw):
    window = draw.randint(1, 40)
    return {
        "kind": draw.choice(KINDS),
        "grid": draw.choice(("repo", "paper")),
        "window": window,
        "decay": draw.choice((0.5, 3.0, 9.0)),
        "scale": draw.choice((0.0, 0.7, 1.6, -1.0)),
        "count": float(draw.randint(0, window)),
        "near": draw.randint(0, 5),
    }


def _heads(draw):
    kv_heads = draw.randint(1, 3)
    dims = (1, 2, 8, 16, 20, 24, 40, 64, 72, 80, 96, 128)
    heads = {"kv_heads": kv_heads, "heads": kv_heads * draw.randint(1, 4)}
    return heads | {"head_dim": draw.choice(dims)}


def _suffix_sample(draw):
    left = _counts(draw, 60)
    length = max(left, default=0) + draw.randint(0, 3)
    return {"left": left, "length": length, "keep_last": draw.random() < 0.5, **_table(draw)}


def _plan_pass(draw):
    batch, blocks = draw.randint(0, 4), []
    for _ in range(batch):
        start = draw.randint(0, 30)
        blocks.append((start, start + draw.randint(1, 12)))
    kept = tuple(draw.randint(0, 8) for _ in blocks)
    scope = tuple(draw.randint(0, 2) for _ in blocks)
    rest = {"shift": draw.randint(0, 1), "block_length": draw.choice((0, 0, 1, 4, 32))}
    return {"blocks": tuple(blocks), "kept": kept, "scope": scope, **rest}


def _suffix_gather(draw):
    counts = _counts(draw)
    rest = {"length": draw.randint(1, 50), "hidden": draw.random() < 0.5}
    return {"counts": counts, "canvas_rows": len(counts) + draw.randint(1, 2), **rest}


def _rope_kv_write_(draw):
    counts, heads = _counts(draw, 20), _heads(draw)
    rows = {"counts": counts, "gap": draw.randint(0, 2)}
    rows["q_rows"] = draw.choice((None, None, 0, draw.randint(0, 30)))
    turned = draw.randint(0, heads["head_dim"] // 2)
    room = {"capacity": max(counts, default=0) + draw.randint(1, 4), "turned": turned}
    flags = {"full_precision": draw.random() < 0.5, "positions": draw.randint(1, 90)}
    return {**rows, **heads, **room, **flags}


def _block_attention(draw):
    counts = _counts(draw)
    keys = tuple(draw.choice((0, 1, 5, 95, 96, 97, draw.randint(0, 210))) for _ in counts)
    masks = {"mask": draw.random() < 0.4, "limit": draw.random() < 0.4, "unread": NAN}
    rows = {"counts": counts, "keys": keys, "gap": draw.randint(0, 4)}
    return {**rows, **masks, **_heads(draw)}


def _route(draw):
    groups = draw.choice((1, 1, 2, 4))
    each = draw.randint(2, 5)
    top_groups = draw.randint(1, groups)
    choice = {"top_k": draw.randint(1, min(8, top_groups * each)), "groups": groups}
    choice |= {"experts": groups * each, "top_groups": top_groups}
    rest = {"score": draw.choice(("softmax", "sigmoid")), "normalise": draw.random() < 0.5}
    return {"rows": _near(draw, 33), **choice, **rest, "bias": draw.random() < 0.5}


def _confidence(draw):
    counts, vocab = _counts(draw, 4), max(1, _near(draw, 64, 127, 1024, 1500, 2048))
    hot = (0.0, 0.3, 1.0, 2.5, 1e37, 1e300)
    some = lambda: draw.choice((0, 0, 1, 4, vocab // 2))  # noqa: E731
    return {
        "counts": counts,
        "vocab": vocab,
        "temperature": tuple(draw.choice(hot) for _ in counts),
        "suppress": some(),
        "exclude": some(),
        "noise": draw.random() < 0.3,
        "round_to_dtype": draw.random() < 0.3,
    }


def _unmask_(draw):
    length = draw.randint(1, 60)
    counts = tuple(draw.randint(0, min(length, 40)) for _ in range(draw.randint(0, 4)))
    rest = {"rule": draw.randint(0, 5), "rule_value": draw.choice((0.0, 0.3, 0.8, 1.2, 5.0))}
    rest |= {"quota": draw.randint(-1, 9), "early_stop": draw.random() < 0.5}
    return {"counts": counts, "canvas_rows": len(counts) + 1, "length": length, **rest}


SIZES = {
    "suffix_table": lambda draw: {"length": _near(draw, 40), **_table(draw)},
    "transfer_schedule": lambda draw: {"masks": draw.randint(0, 99), "steps": draw.randint(1, 40)},
    "suffix_sample": _suffix_sample,
    "plan_pass": _plan_pass,
    "suffix_gather": _suffix_gather,
    "rope_kv_write_": _rope_kv_write_,
    "block_attention": _block_attention,
    "add_rms_norm_": lambda draw: {
        "rows": _near(draw, 33),
        "width": _near(draw, 16, 64, 300),
        "delta": draw.random() < 0.7,
    },
    "swiglu": lambda draw: {"rows": _near(draw, 33), "width": _near(draw, 16, 1024, 2048)},
    "linear": lambda draw: {
        "rows": _near(draw, 16, 32, 128),
        "in_features": _near(draw, 64, 256),
        "out_features": _near(draw, 48, 240),
        "bias": draw.random() < 0.5,
    },
    "int8_linear": lambda draw: {
        "rows": _near(draw, 16, 32, 128),
        "in_features": _near(draw, 64, 256, 512),
        "out_features": _near(draw, 48, 240),
        "bias": draw.random() < 0.5,
        "smoothing": draw.random() < 0.5,
    },
    "route": _route,
    "grouped_linear": lambda draw: {
        "counts": tuple(
            draw.choice((0, 1, draw.randint(0, 40))) for _ in range(draw.randint(1, 5))
        ),
        "in_features": _near(draw, 64, 256),
        "out_features": _near(draw, 48),
    },
    "grouped_swiglu": lambda draw: {
        "counts": tuple(
            draw.choice((0, 1, draw.randint(0, 40))) for _ in range(draw.randint(1, 5))
        ),
        "rows": draw.randint(1, 40),
        "in_features": _near(draw, 64, 256),
        "ffn": _near(draw, 48, 240),
    },
    "combine": lambda draw: {
        "rows": _near(draw, 33),
        "top_k": draw.randint(1, 6),
        "width": _near(draw, 64, 300),
        "full_precision": draw.random() < 0.5,
    },
    "confidence": _confidence,
    "uniform": lambda draw: {"counts": _counts(draw)},
    "unmask_": _unmask_,
}


def call(seed):
    """(operator, dtype, arguments) of one valid random call, the same for the same seed."""
    draw = random.Random(seed)
    name, dtype = draw.choice(inputs.NAMES), draw.choice(DTYPES)
    return name, dtype, inputs.make(name, seed, dtype, **SIZES[name](draw))


def placed(name, arguments, seed):
    """The arguments in guarded memory and random layouts; and the guards."""
    draw, guards, written = random.Random(seed), Guarded(), inputs.WRITTEN.get(name, ())
    layouts = {}
    for argument, value in arguments.items():
        if not isinstance(value, torch.Tensor):
            continue
        order, gap = list(range(value.dim())), draw.choice((0, 0, 1, 3))
        if argument in ("k_cache", "v_cache"):  # the last dimension stays where it is
            order = [*draw.sample(order[:-1], len(order) - 1), order[-1]]
        elif argument in written:
            gap = gap if name == "add_rms_norm_" else 0
        else:
            draw.shuffle(order)
        layouts[argument] = (tuple(order), gap)
    return guards.put_all(arguments, written, **layouts), guards
