"""Dtypes and shapes of every operator's tensors, in one table.

The fakes are made of it, and the tests draw good and bad calls from it. The kernels make the same
checks themselves (csrc/torch), and more: of values, strides and memory that is shared.

One line per tensor, in the order in which the kernels look at them: name, dtype, sizes. ``float``
is float32, bfloat16 or float16, the same one in the whole call. A name among the sizes is whatever
it is where it stands first; a ``?`` behind the line means that None may be given. Sizes of results
may be names of integer arguments; those with a ``?`` depend on values.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
DTYPES = {n: getattr(torch, n) for n in ("int64", "int32", "int8", "float64", "float32", "bool")}

# Integer arguments that are sizes of results: least and greatest.
COUNTS = {"length": (0, 2**24), "steps": (1, 2**24), "top_k": (1, 2**24)}

_TABLE = """
suffix_table
    -> int64[length]
transfer_schedule
    -> int64[steps]
suffix_sample
    seed int64[batch]
    row_key int64[batch]
    block int64[batch]
    redraw int64[batch]
    end int64[batch]
    total int64[batch]
    -> int64[batch, length]
    -> int64[batch]
plan_pass
    start int64[batch]
    end int64[batch]
    kept_count int64[batch]
    scope int64[batch]
    first int64[batch]
    first_target int64[batch]
    unseen int64[batch]
    predecessor int64[batch]
    kept int64[kept]
    -> int64[lines?, rows?]
    -> int64[2, logit_rows?]
    -> int64[2, batch + 1]
    -> int64[batch]
suffix_gather
    canvas int64[canvas_rows, length]
    canvas_row int64[batch]
    q_offsets int64[batch + 1]
    position int64[rows]
    hidden_until int64[batch]?
    -> int64[rows]
rope_kv_write_
    q float[q_rows, heads, head_dim]
    k float[rows, kv_heads, head_dim]
    v float[rows, kv_heads, head_dim]
    k_cache float[kv_heads, slots, head_dim]
    v_cache float[kv_heads, slots, head_dim]
    cos float32[positions, turned]
    sin float32[positions, turned]
    q_position int64[q_rows]
    position int64[rows]
    slot int64[rows]
    kv_start int64[batch]
    q_offsets int64[batch + 1]
    -> float[q_rows, heads, head_dim]
block_attention
    q float[rows, heads, head_dim]
    k_cache float[kv_heads, slots, head_dim]
    v_cache float[kv_heads, slots, head_dim]
    kv_start int64[batch]
    q_offsets int64[batch + 1]
    n_keys int64[batch]
    key_mask bool[slots]?
    key_limit int64[rows]?
    -> float[rows, heads, head_dim]
add_rms_norm_
    residual float[rows, width]
    weight float[width]
    delta float[rows, width]?
    -> float[rows, width]
swiglu
    gate float[rows, width]
    up float[rows, width]
    -> float[rows, width]
linear
    x float[rows, in_features]
    weight float[out_features, in_features]
    bias float[out_features]?
    -> float[rows, out_features]
int8_linear
    x float[rows, in_features]
    weight int8[out_features, in_features]
    scale float32[out_features]
    bias float[out_features]?
    smoothing float32[in_features]?
    -> float[rows, out_features]
route
    logits float[rows, experts]
    bias float32[experts]?
    -> int64[rows, top_k]
    -> float32[rows, top_k]
    -> int64[rows * top_k]
    -> int32[experts]
grouped_linear
    x float[rows, in_features]
    weight float[experts, out_features, in_features]
    offsets int32[experts]
    -> float[rows, out_features]
grouped_swiglu
    x float[rows, in_features]
    row int64[places]
    gate float[experts, ffn, in_features]
    up float[experts, ffn, in_features]
    offsets int32[experts]
    -> float[places, ffn]
combine
    weight float32[rows, top_k]
    order int64[rows * top_k]
    y float[rows * top_k, width]
    -> float[rows, width]
confidence
    logits float[rows, vocab]
    position int64[rows]
    temperature float64[batch]
    l_offsets int64[batch + 1]
    rng int64[batch, 3]
    suppress int64[suppressed]
    exclude int64[excluded]
    noise float64[rows, vocab]?
    -> int64[rows]
    -> float64[rows]
    -> float64[rows]
    -> float64[rows]
uniform
    rng int64[batch, 3]
    position int64[rows]
    l_offsets int64[batch + 1]
    -> float64[rows]
unmask_
    canvas int64[canvas_rows, length]
    committed_at int64[canvas_rows, length]
    committed float64[canvas_rows, length]
    masks_left int64[canvas_rows]
    status int64[canvas_rows]
    forward int64[canvas_rows]
    canvas_row int64[batch]
    position int64[rows]
    l_offsets int64[batch + 1]
    token int64[rows]
    score float64[rows]
    probability float64[rows]
    rule_value float64[batch]
    quota int64[batch]
    length int64[batch]
    end_ids int64[ends]
"""
_LINE = re.compile(r"    (->|\w+) (\w+)\[(.*)\](\??)")


@dataclass(frozen=True)
class Operand:
    """One tensor: `dtype` is a key of DTYPES or "float", `sizes` are "a", "3", "a + 1", "a * b"."""

    name: str
    dtype: str
    sizes: tuple[str, ...]
    optional: bool = False

    def shape(self, sizes: Mapping[str, int]) -> list[int | None]:
        """Its shape by the values of `sizes`; None for a name that is not among them."""
        return [_size(text, sizes) for text in self.sizes]


@dataclass(frozen=True)
class Signature:
    """Tensor arguments in the order of the kernel's checks, and results."""

    operands: tuple[Operand, ...]
    results: tuple[Operand, ...]


def _size(text: str, sizes: Mapping[str, int]) -> int | None:
    if text.isdigit():
        return int(text)
    name, operation, other = (*text.split(" "), "", "")[:3]
    value = sizes.get(name)
    if value is None or not operation:
        return value
    return value + int(other) if operation == "+" else value * sizes[other]


def _parse(table: str) -> dict[str, Signature]:
    found: dict[str, tuple[list[Operand], list[Operand]]] = {}
    for line in table.strip().splitlines():
        if not line.startswith(" "):
            operands, results = found[line] = [], []
            continue
        match = _LINE.fullmatch(line)
        assert match is not None, line
        name, dtype, sizes, optional = match.groups()
        operand = Operand(name, dtype, tuple(sizes.split(", ")), bool(optional))
        (results if name == "->" else operands).append(operand)
    return {name: Signature(tuple(o), tuple(r)) for name, (o, r) in found.items()}


SIGNATURES = _parse(_TABLE)
