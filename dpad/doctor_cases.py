"""Small, awkwardly shaped inputs for every operator, on which `dpad.doctor` compares kernels."""

from dataclasses import dataclass, field

import torch

from dpad import ops

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Largest allowed difference between kernel and twin, as a share of the largest value: sums in
# another order for float32, a rounding step that falls the other way (twice in a row) for halves.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}
PLANNING = ("suffix_table", "transfer_schedule", "suffix_sample", "plan_pass")
VOCABULARY, MASK_ID = 1003, 7
WIDE_VOCABULARY = 16389  # a row that CUDA splits over three blocks
HEAD_DIMS = (40, 64, 128)  # the last two by tensor cores on CUDA, where the dtype allows


@dataclass
class Case:
    """Arguments of one call of an operator, by name, on the CPU.

    `dtype` is None where no floating-point argument has a choice; `exact` asks for equal bits.
    """

    operator: str
    arguments: dict
    dtype: torch.dtype | None = None
    exact: bool = True
    tolerance: float = field(init=False)

    def __post_init__(self):
        self.tolerance = 0.0 if self.exact else TOLERANCE[self.dtype]


def _ints(*values):
    return torch.tensor(values, dtype=torch.int64)


def _planning():
    table = {"grid": "repo", "window": 48, "decay": 3.0, "count": 9.0, "near": 3}
    for kind, scale in (("gaussian", 1.6), ("gaussian", -1.0), ("uniform", 0.0), ("window", 0.0)):
        drawn = {"kind": kind, "scale": scale, **table}
        yield Case("suffix_table", {**drawn, "length": 70})
        keys = {"seed": _ints(2**61 + 3, 0, -1), "row_key": _ints(0, -5, 2**40)}
        keys |= {"block": _ints(0, 1, 7), "redraw": _ints(0, 0, 1)}
        ends = {"end": _ints(9, 40, 64), "total": _ints(75, 75, 65)}
        rest = {"keep_last": True, "length": 66}
        yield Case("suffix_sample", {**keys, **ends, **drawn, **rest})
    yield Case("transfer_schedule", {"masks": 33, "steps": 7})
    for shift, block_length in ((0, 0), (1, 0), (1, 4)):
        plan = {
            "start": _ints(4, 0, 9),
            "end": _ints(9, 5, 16),
            "kept": torch.tensor([[10, 12, 19], [6, -1, -1], [-1, -1, -1]]),
            "kept_count": _ints(3, 1, 0),
            "scope": _ints(0, 1, 2),
            "first": _ints(3, 0, 0),
            "first_target": _ints(6, 0, 16),
            "shift": shift,
            "block_length": block_length,
        }
        yield Case("plan_pass", plan)


def _gather(rng):
    arguments = {
        "canvas": torch.randint(0, VOCABULARY, (3, 40), generator=rng),
        "canvas_row": _ints(2, 0),
        "q_offsets": _ints(0, 5, 13),
        "position": torch.randint(0, 40, (13,), generator=rng),
        "hidden_until": _ints(9, 0),
        "mask_id": MASK_ID,
    }
    yield Case("suffix_gather", arguments)


def _layers(rng, dtype):
    draw = lambda *shape: torch.randn(*shape, generator=rng).to(dtype)  # noqa: E731
    offsets, rows, heads, kv_heads, dim, capacity = _ints(0, 5, 13), 13, 6, 2, 40, 70
    caches = {
        "k_cache": draw(kv_heads, 3 * capacity, dim),
        "v_cache": draw(kv_heads, 3 * capacity, dim),
    }
    angle = torch.arange(90.0)[:, None] * 1e4 ** (-torch.arange(dim // 2) / (dim // 2))
    position = torch.randperm(90, generator=rng)[:rows]
    rope = {
        "q": draw(rows, heads, dim),
        "k": draw(rows, kv_heads, dim),
        "v": draw(rows, kv_heads, dim),
        "q_position": position,
        "position": position,
        "slot": torch.cat((torch.arange(11, 21), _ints(-1, 3, 4))),
        "q_offsets": offsets,
        "kv_start": _ints(2 * capacity, 5),
        "cos": angle.cos(),
        "sin": angle.sin(),
        **caches,
    }
    for full_precision in (True, False):
        yield Case("rope_kv_write_", {**rope, "full_precision": full_precision}, dtype)
    for dim in HEAD_DIMS:
        yield from _attention(rng, dtype, dim)
    for delta in (None, draw(rows, 130)):
        norm = {"residual": draw(rows, 130), "delta": delta, "weight": draw(130), "eps": 1e-5}
        yield Case("add_rms_norm_", norm, dtype, exact=False)
    for bias in (None, draw(250)):
        linear = {"x": draw(45, 300), "weight": draw(250, 300), "bias": bias}
        yield Case("linear", linear, dtype, exact=False)
    yield Case("swiglu", {"gate": draw(rows, 130), "up": draw(rows, 130)}, dtype, exact=False)


def _attention(rng, dtype, dim):
    draw = lambda *shape: torch.randn(*shape, generator=rng).to(dtype)  # noqa: E731
    rows, capacity = 13, 150
    attention = {
        "q": draw(rows, 6, dim),
        "k_cache": draw(2, 3 * capacity, dim),
        "v_cache": draw(2, 3 * capacity, dim),
        "q_offsets": _ints(0, 5, 13),
        "kv_start": _ints(2 * capacity, 5),
        "n_keys": _ints(141, 17),
        "scale": dim**-0.5,
    }
    masks = {
        "key_mask": torch.rand(3 * capacity, generator=rng) < 0.7,
        "key_limit": torch.randint(1, 141, (rows,), generator=rng),
    }
    for extra in (dict.fromkeys(masks), masks):
        yield Case("block_attention", {**attention, **extra}, dtype, exact=False)


def _routed(rng, dtype):
    draw = lambda *shape: torch.randn(*shape, generator=rng).to(dtype)  # noqa: E731
    for score, groups, bias in (
        ("softmax", 1, None),
        ("sigmoid", 8, torch.rand(64, generator=rng)),
    ):
        options = {"top_k": 8, "score": score, "normalise": groups > 1, "groups": groups}
        router = {**options, "top_groups": min(groups, 3), "scaling": 2.5}
        case = Case("route", {"logits": draw(21, 64), "bias": bias, **router}, dtype, exact=False)
        case.tolerance = TOLERANCE[torch.float32]  # the results are float32 for every dtype
        yield case
    order, weight = torch.randperm(104, generator=rng), torch.rand(13, 8, generator=rng)
    for full_precision in (True, False):
        arguments = {"y": draw(104, 130), "order": order, "weight": weight}
        yield Case("combine", {**arguments, "full_precision": full_precision}, dtype)
    offsets = torch.tensor([5, 5, 45], dtype=torch.int32)
    grouped = {"x": draw(45, 304), "weight": draw(3, 250, 304), "offsets": offsets}
    yield Case("grouped_linear", grouped, dtype, exact=False)


def _draws():
    """Keys of the random draws of six logit rows in two sequences."""
    return {
        "rng": torch.tensor([[2**61 + 3, 0, 4], [2**61 + 3, -5, 0]]),
        "l_offsets": _ints(0, 4, 6),
        "position": _ints(40, 41, 42, 43, 9, 11),
    }


def _confidence(rng, dtype, vocabulary):
    arguments = {
        "logits": (4 * torch.randn(6, vocabulary, generator=rng)).to(dtype),
        **_draws(),
        "suppress": _ints(MASK_ID),
        "exclude": _ints(MASK_ID, 11),
        "noise": None,
        "round_to_dtype": False,
    }
    for temperature in (0.0, 0.7):
        arguments = {**arguments, "temperature": torch.tensor([0.0, temperature]).double()}
        case = Case("confidence", arguments, dtype, exact=False)
        case.tolerance = TOLERANCE[torch.float32]  # the results are float64 for every dtype
        yield case


def _unmask(rng):
    masked = torch.rand(3, 40, generator=rng) < 0.6
    masked[:, 10:18] = True
    score = torch.rand(16, generator=rng, dtype=torch.float64)
    canvas = torch.randint(8, VOCABULARY, (3, 40), generator=rng).masked_fill(masked, MASK_ID)
    for rule, number in ops.RULES.items():
        amount = 0.8 if rule in ("threshold", "entropy_bound") else 1.2
        arguments = {
            "canvas": canvas,
            "committed_at": torch.full((3, 40), -1),
            "committed": torch.zeros(3, 40, dtype=torch.float64),
            "masks_left": _ints(0, 0, 0),
            "status": _ints(0, 0, 0),
            "forward": _ints(3, 0, 1),
            "canvas_row": _ints(2, 0),
            "l_offsets": _ints(0, 8, 16),
            "position": torch.arange(10, 18).repeat(2),
            "token": torch.randint(8, VOCABULARY, (16,), generator=rng),
            "score": score,
            "probability": score.flip(0),
            "amount": torch.tensor([amount, 9.0], dtype=torch.float64),
            "quota": _ints(3, 8),
            "length": _ints(40, 35),
            "end_ids": torch.arange(500, VOCABULARY),
            "rule": number,
            "early_stop": True,
            "mask_id": MASK_ID,
            "fill_id": 500,
        }
        yield Case("unmask_", arguments)


def cases(device_type):
    """Every case that runs on a device of this type; the same ones on every call."""
    rng = torch.Generator().manual_seed(0)
    found = [] if device_type != "cpu" else list(_planning())
    found += _gather(rng)
    for dtype in DTYPES:
        found += _layers(rng, dtype)
        found += _routed(rng, dtype)
        found += _confidence(rng, dtype, VOCABULARY)
        found += _confidence(rng, dtype, WIDE_VOCABULARY)
    return [*found, Case("uniform", _draws()), *_unmask(rng)]
