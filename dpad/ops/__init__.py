"""The operators, as typed functions.

Each calls its kernel (`torch.ops.dpad.<name>`) where one exists for the tensors' device, else its
plain-torch twin in `dpad.ops.reference`. They are for inference: a tensor that requires grad is
refused while gradients are recorded. They may be used in ``torch.compile(fullgraph=True)`` where
they have a kernel.

A *pass* is a flat list of rows, grouped by sequence: the rows of sequence b are
``[q_offsets[b], q_offsets[b + 1])`` and look at its slots ``[0, n_keys[b])``. *Logit rows* are the
rows whose hidden states reach the head; those of sequence b are
``[l_offsets[b], l_offsets[b + 1])``. Index tensors are int64. K and V of all sequences lie in one
arena each, ``[num_kv_heads, slots, head_dim]``, K stored after RoPE: slot i of sequence b is slot
``kv_start[b] + i`` of the arena. Its last dimension is contiguous. Floating-point arguments
are float32, bfloat16 or float16, all of one dtype. Bad arguments raise RuntimeError naming the
operator, the argument and the value, before any work; on CUDA values are not read back, so a row
whose index is out of range is skipped, and `unmask_` reports the status "invalid" or "nan".
"""

from collections.abc import Sequence
from typing import Any

import torch

from dpad.ops import reference
from dpad.ops._load import build_info, has_kernel, loaded, told
from dpad.ops._names import RULES, SCOPES, STATUS, STOPS

if loaded("_C"):
    from dpad.ops import _fakes

    _fakes.register()

__all__ = [
    "RULES",
    "SCOPES",
    "STATUS",
    "STOPS",
    "add_rms_norm_",
    "block_attention",
    "build_info",
    "combine",
    "confidence",
    "cpu_extensions",
    "cpu_isa",
    "grouped_linear",
    "has_kernel",
    "int8_linear",
    "linear",
    "loaded",
    "plan_pass",
    "reference",
    "rope_kv_write_",
    "route",
    "set_cpu_isa",
    "suffix_gather",
    "suffix_sample",
    "suffix_table",
    "swiglu",
    "transfer_schedule",
    "uniform",
    "unmask_",
]


def _bind(name: str) -> Any:
    """The compiled overload, looked up once, or None."""
    return getattr(torch.ops.dpad, name).default if loaded("_C") else None


_CPU = torch.device("cpu")
_COMPILED = {name: _bind(name) for name in reference.__all__ if name != "gumbel"}

# Device types on which an operator has a kernel; asked here, as torch.compile cannot trace it.
_KERNELS = {
    name: frozenset(d for d in ("cpu", "meta", "cuda") if has_kernel(name, d)) for name in _COMPILED
}


def _run(name: str, tensors: Sequence[Any], *args: Any) -> Any:
    """Calls `name` on its kernel or its twin; `tensors` are those that may carry gradients."""
    if torch.is_grad_enabled():
        for t in tensors:
            if getattr(t, "requires_grad", False):
                raise RuntimeError(
                    f"dpad.ops.{name} is for inference only and got a tensor that requires grad: "
                    "call it under torch.no_grad() or torch.inference_mode(), or detach the tensor"
                )
    # What is no tensor goes to the kernel, which refuses it by name.
    device = getattr(tensors[0], "device", _CPU).type if tensors else "cpu"
    op = _COMPILED[name] if device in _KERNELS[name] else getattr(reference, name)
    return op(*args)


def suffix_table(
    kind: str,
    grid: str,
    window: int,
    decay: float,
    scale: float,
    count: float,
    near: int,
    length: int,
) -> torch.Tensor:
    """Integer keep-thresholds of the suffix distances 0..length-1 (DPad, arXiv 2508.14148, eq. 7).

    Position ``e + d`` is kept when its 32-bit random word is below ``table[d]``; 2**32 is always.

    Args:
        kind: "none", "all", "gaussian", "uniform" or "window".
        grid: "repo" samples the gaussian at ``decay d / (window - 1)``, "paper" at
            ``decay d / window``.
        window: number of candidate distances.
        decay: k of the gaussian, in windows.
        scale: a of the gaussian; negative: found so that `count` positions are expected.
        count: wanted number of kept positions.
        near: the nearest `near` positions are always kept.
        length: entries of the table.

    Returns:
        int64 ``[length]``.
    """
    return _run("suffix_table", (), kind, grid, window, decay, scale, count, near, length)


def transfer_schedule(masks: int, steps: int) -> torch.Tensor:
    """Positions to commit in each of `steps` steps: LLaDA's linear schedule (arXiv 2502.09992).

    Returns:
        int64 ``[steps]``, summing to `masks`.
    """
    return _run("transfer_schedule", (), masks, steps)


def suffix_sample(
    seed: torch.Tensor,
    row_key: torch.Tensor,
    block: torch.Tensor,
    redraw: torch.Tensor,
    end: torch.Tensor,
    total: torch.Tensor,
    *,
    kind: str,
    length: int,
    grid: str = "repo",
    window: int = 0,
    decay: float = 0.0,
    scale: float = 0.0,
    count: float = 0.0,
    near: int = 0,
    keep_last: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws the kept suffix of one block for each sequence.

    Args:
        seed, row_key, block, redraw: int64 ``[batch]``, what the draw is keyed by.
        end, total: int64 ``[batch]``, first suffix position and canvas length.
        length: columns of the result, at least every ``total - end``, at most 2**24.
        keep_last: the last canvas position is always kept.
        kind, grid, window, decay, scale, count, near: as in `suffix_table`.

    Returns:
        kept positions int64 ``[batch, length]``, ascending, filled with -1; their number int64
        ``[batch]``.
    """
    args = (kind, grid, window, decay, scale, count, near, keep_last, length)
    return _run("suffix_sample", (seed,), seed, row_key, block, redraw, end, total, *args)


def plan_pass(
    start: torch.Tensor,
    end: torch.Tensor,
    kept: torch.Tensor,
    kept_count: torch.Tensor,
    scope: torch.Tensor,
    first: torch.Tensor,
    first_target: torch.Tensor,
    unseen: torch.Tensor,
    predecessor: torch.Tensor,
    shift: int = 0,
    block_length: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lays out one pass: rows, slots, positions, logit rows.

    A sequence has n visible slots: the positions [0, end), then the kept suffix.

    Args:
        start, end: int64 ``[batch]``, the block's positions [start, end) of each sequence.
        kept: int64 ``[n]``, kept suffix positions of one sequence after the other, each ascending
            and at least its `end`.
        kept_count: int64 ``[batch]``, how many each has; n together.
        scope: int64 ``[batch]``, a value of `SCOPES`, which slots are computed: "all" those from
            `first` on, "suffix" the block and the suffix, "block" the block.
        first: int64 ``[batch]`` in [0, start], of the scope "all"; elsewhere without effect. 0 is
            everything, the start of the block before is a sliding refresh.
        first_target: int64 ``[batch]`` in [start, end]: the positions [first_target, end) have
            logit rows; none where it is `end`.
        unseen: int64 ``[batch]``, leading slots that the pass neither computes nor looks at: slots,
            keys and limits count from there.
        predecessor: int64 ``[batch]``, 1: with a shift, the row before the block joins a pass that
            begins with the block; 0: the first position is predicted from its own row then.
        shift: 0, or 1 for models whose row i - 1 predicts position i.
        block_length: 0, or the block length of a block-causal model, counted from position 0.

    Positions lie below 2**40, and a pass has at most 2**24 rows.

    Returns:
        int64 tensors by what they count: rows ``[2, rows]`` (slot and position), with a
        `block_length` ``[3, rows]`` (and key limit: the end of each row's own block, at most n);
        logit rows ``[2, logit_rows]`` (row and the position that it predicts); offsets
        ``[2, batch + 1]`` (of rows and of logit rows); n_keys ``[batch]``.
    """
    args = (start, end, kept, kept_count, scope, first, first_target, unseen, predecessor)
    return _run("plan_pass", (start,), *args, shift, block_length)


def suffix_gather(
    canvas: torch.Tensor,
    canvas_row: torch.Tensor,
    q_offsets: torch.Tensor,
    position: torch.Tensor,
    hidden_until: torch.Tensor | None = None,
    mask_id: int = 0,
) -> torch.Tensor:
    """Tokens of the pass's rows from the canvas, by position.

    Args:
        canvas: int64 ``[canvas_rows, length]``.
        canvas_row: int64 ``[batch]``.
        position: int64 ``[rows]``.
        hidden_until: int64 ``[batch]`` or None: positions below it read as `mask_id`.

    Returns:
        int64 ``[rows]``.
    """
    args = (canvas, canvas_row, q_offsets, position, hidden_until, mask_id)
    return _run("suffix_gather", (canvas,), *args)


def rope_kv_write_(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_position: torch.Tensor,
    position: torch.Tensor,
    slot: torch.Tensor,
    q_offsets: torch.Tensor,
    kv_start: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    full_precision: bool = True,
) -> torch.Tensor:
    """Rotates q and k at their positions, writes k and v into their slots in place.

    Args:
        q: ``[q_rows, num_heads, head_dim]``; k, v: ``[rows, num_kv_heads, head_dim]``.
        q_position: int64 ``[q_rows]``; position, slot: int64 ``[rows]``, slot -1 is not written;
            no slot of the arena is written twice in a call.
        kv_start: int64 ``[batch]``, where the slots of each sequence begin in the arena.
        cos, sin: float32 ``[positions, rotary_dim / 2]``, half-split RoPE; the dimensions from
            rotary_dim on are copied.
        k_cache, v_cache: ``[num_kv_heads, slots, head_dim]``, written; they share no memory with
            anything else.
        full_precision: rotate in float32 and round once, else round every product to the dtype.

    Returns:
        the rotated q, ``[q_rows, num_heads, head_dim]``.
    """
    tensors = (q, k, v, k_cache, v_cache)
    index = (q_position, position, slot, q_offsets, kv_start, cos, sin)
    return _run("rope_kv_write_", tensors, q, k, v, *index, k_cache, v_cache, full_precision)


def block_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    q_offsets: torch.Tensor,
    kv_start: torch.Tensor,
    n_keys: torch.Tensor,
    scale: float,
    key_mask: torch.Tensor | None = None,
    key_limit: torch.Tensor | None = None,
) -> torch.Tensor:
    """Bidirectional attention of flat rows over the first n_keys slots of their sequences.

    Args:
        q: ``[rows, num_heads, head_dim]``; heads share K/V in groups.
        k_cache, v_cache: ``[num_kv_heads, slots, head_dim]``.
        kv_start, n_keys: int64 ``[batch]``: sequence b looks at the slots
            ``[kv_start[b], kv_start[b] + n_keys[b])`` of the arena.
        scale: multiplies the products, usually ``head_dim ** -0.5``.
        key_mask: bool ``[slots]`` of the arena, True may be looked at.
        key_limit: int64 ``[rows]``, a row looks only at the slots of its sequence below its limit.

    Returns:
        ``[rows, num_heads, head_dim]``; zeros where a row sees no key.
    """
    args = (q_offsets, kv_start, n_keys, scale, key_mask, key_limit)
    return _run("block_attention", (q, k_cache, v_cache), q, k_cache, v_cache, *args)


def add_rms_norm_(
    residual: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """Adds `delta` into `residual` in place and returns the RMS-normed rows.

    The sum is rounded to the dtype; the norm is taken in float32, rounded, then multiplied by the
    weight in the dtype.

    Args:
        residual: ``[rows, width]``, written; delta: ``[rows, width]`` or None; weight ``[width]``.

    Returns:
        ``[rows, width]``.
    """
    return _run("add_rms_norm_", (residual, delta, weight), residual, delta, weight, eps)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) * up``, silu in float32 and rounded before the product.

    Args:
        gate, up: ``[rows, width]``.

    Returns:
        ``[rows, width]``.
    """
    return _run("swiglu", (gate, up), gate, up)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x weight^T + bias`` as torch.nn.functional.linear; made for few rows.

    The sum of an element is taken in float32 in a fixed order and rounded once: a row has the same
    bits alone and among any others, at any number of threads.

    Args:
        x: ``[rows, in_features]``; weight: ``[out_features, in_features]``, copied first where its
            last dimension is not contiguous; bias: ``[out_features]`` or None.

    Returns:
        ``[rows, out_features]``.
    """
    return _run("linear", (x, weight, bias), x, weight, bias)


def route(
    logits: torch.Tensor,
    bias: torch.Tensor | None,
    top_k: int,
    score: str = "softmax",
    normalise: bool = True,
    groups: int = 1,
    top_groups: int = 1,
    scaling: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The experts of each row of a routed MLP, and the pairs of rows and experts sorted by expert.

    Pair ``row * top_k + k`` is the k-th expert of a row. A NaN logit ranks first and makes the
    weights of its row NaN; experts are valid whatever the logits hold.

    Args:
        logits: ``[rows, experts]``; bias: float32 ``[experts]`` or None, added to the scores that
            choose and not to the weights.
        top_k: experts of a row.
        score: "softmax" or "sigmoid", taken in float32. Ties go to the lowest expert.
        normalise: divide the weights of a row by their sum (plus 1e-20).
        groups, top_groups: with more than one group of neighbouring experts, those of the best
            `top_groups` groups may be chosen; a group ranks by the sum of its two best scores
            (DeepSeek-V3, arXiv 2412.19437; LLaDA2). Ties go to the lowest group.
        scaling: multiplies the weights.

    Returns:
        expert int64 ``[rows, top_k]``, the best first; weight float32 ``[rows, top_k]``; order
        int64 ``[rows * top_k]``, the pair at each place of the order by expert, those of one
        expert ascending; offsets int32 ``[experts]``, the end of each expert's places.
    """
    args = (top_k, score, normalise, groups, top_groups, scaling)
    return _run("route", (logits, bias), logits, bias, *args)


def grouped_linear(x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """``x weight[e]^T`` for the rows of each expert e, as torch.nn.functional.grouped_mm.

    On the CPU a row has the same bits alone and among any others, at any number of threads; any
    width and stride will do. Elsewhere it is grouped_mm where rows start at multiples of 16 bytes:
    on CUDA in bfloat16 on Hopper and later nothing is read back, else torch reads the offsets.

    Args:
        x: ``[rows, in_features]``, sorted by expert; weight: ``[experts, out_features,
            in_features]``; offsets: int32 ``[experts]``, the end of each expert's rows.

    Returns:
        ``[rows, out_features]``.
    """
    return _run("grouped_linear", (x, weight), x, weight, offsets)


def combine(
    y: torch.Tensor,
    order: torch.Tensor,
    weight: torch.Tensor,
    full_precision: bool = True,
    round_weights: bool = True,
) -> torch.Tensor:
    """Sums the experts' results of each row: ``out[row] = sum_k weight[row, k] y[its place]``.

    Args:
        y: ``[rows * top_k, width]``, by expert; order: int64 ``[rows * top_k]``, of `route`;
            weight: float32 ``[rows, top_k]``.
        full_precision: add in float32, k ascending, and round once (LLaDA2). Else round products
            and sums to the dtype and add experts in ascending order, as the models that loop over
            experts do.
        round_weights: round the weights to the dtype too, without `full_precision` (Qwen3-MoE,
            SDAR-MoE and LLaDA-MoE do, RND1 does not).

    Returns:
        ``[rows, width]``. RuntimeError where `order` is no permutation; on CUDA a row that lacks a
        pair is NaN.
    """
    return _run("combine", (y, weight), y, order, weight, full_precision, round_weights)


def int8_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    smoothing: torch.Tensor | None = None,
) -> torch.Tensor:
    """``x weight^T + bias`` with an 8-bit weight and rows of x made 8-bit as they come.

    Row r counts as ``q[r] * s[r]``, with ``s[r]`` its largest magnitude / 127 and q rounded to the
    nearest integer, ties to even; the output is ``(sum of q * weight) * s[r] * scale + bias``, each
    step rounded to float32, the last to x's dtype. The sums are exact integers: a row has the same
    bits alone and among any others, on every instruction set. A row with a value that is not
    finite gives NaN, one whose magnitudes are all below 2**-100 counts as zeros.

    Args:
        x: ``[rows, in_features]``, at most 65536 features.
        weight: int8 ``[out_features, in_features]``, in [-127, 127].
        scale: float32 ``[out_features]``; the weight of feature n is ``weight[n] * scale[n]``.
        bias: ``[out_features]`` of x's dtype, or None.
        smoothing: float32 ``[in_features]`` or None: factors of x's columns, before rounding
            (SmoothQuant, arXiv 2211.10438); the weight has been divided by them.

    Returns:
        ``[rows, out_features]`` of x's dtype.
    """
    tensors = (x, weight, scale, bias, smoothing)
    return _run("int8_linear", tensors, *tensors)


def cpu_extensions() -> set[str]:
    """What the CPU kernels use beyond `cpu_isa`, a set of names: "avx512vnni" for `int8_linear`,
    "avx512bf16" for `linear` in bfloat16.
    """
    return set(told("cpu_extensions").split()) if loaded("_C") else set()


def confidence(
    logits: torch.Tensor,
    l_offsets: torch.Tensor,
    position: torch.Tensor,
    rng: torch.Tensor,
    temperature: torch.Tensor,
    suppress: torch.Tensor,
    exclude: torch.Tensor,
    noise: torch.Tensor | None = None,
    round_to_dtype: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token, probability, margin and entropy of every logit row in one pass.

    Args:
        logits: ``[logit_rows, vocab]``.
        position: int64 ``[logit_rows]``, the position each row predicts.
        rng: int64 ``[batch, 3]``: seed, row key, number of the forward; keys the Gumbel noise.
        temperature: float64 ``[batch]``; 0 takes the argmax, ties to the lowest id.
        suppress: int64, ids that are never chosen; exclude: int64, ids left out of the soft-max.
        noise: float64 ``[logit_rows, vocab]``, Gumbel noise to use instead.
        round_to_dtype: round the scores to the logits' dtype.

    Returns:
        token int64; probability (of the token, un-noised soft-max), margin (best minus
        second-best), entropy (nats), float64, each ``[logit_rows]``; all three are NaN where the
        soft-max has a NaN or +inf among its logits, or only -inf.
    """
    args = (l_offsets, position, rng, temperature, suppress, exclude, noise, round_to_dtype)
    return _run("confidence", (logits,), logits, *args)


def uniform(rng: torch.Tensor, l_offsets: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Uniform draws in (0, 1], one per logit row: the order of random remasking.

    Args:
        rng: int64 ``[batch, 3]``: seed, row key, number of the forward.
        position: int64 ``[logit_rows]``.

    Returns:
        float64 ``[logit_rows]``.
    """
    return _run("uniform", (rng,), rng, l_offsets, position)


def unmask_(
    canvas: torch.Tensor,
    committed_at: torch.Tensor,
    committed: torch.Tensor,
    masks_left: torch.Tensor,
    status: torch.Tensor,
    forward: torch.Tensor,
    canvas_row: torch.Tensor,
    l_offsets: torch.Tensor,
    position: torch.Tensor,
    token: torch.Tensor,
    score: torch.Tensor,
    probability: torch.Tensor,
    rule_value: torch.Tensor,
    quota: torch.Tensor,
    length: torch.Tensor,
    end_ids: torch.Tensor,
    rule: int,
    early_stop: int,
    mask_id: int,
    fill_id: int,
) -> None:
    """Commits tokens to the canvas and updates its state.

    In each sequence at least one token is committed, except by the rule "below" (score <
    rule_value, possibly none), and at most `quota`: 0 waits. "at_least" commits every score >=
    rule_value, and the best up to the quota.

    A position is eligible when the canvas holds `mask_id` there. Written, per canvas row: canvas,
    committed_at (number of the forward) and committed (probability), all ``[canvas_rows, length]``;
    masks_left, status (`STATUS`) and forward, int64 ``[canvas_rows]``. By `early_stop` (a value of
    `STOPS`) one of `end_ids` finishes the sequence, in a finished block ("block") or as soon as no
    mask precedes it ("text"), and the masks behind are filled. Only the positions of the pass's
    targets are looked at: an end id elsewhere ends nothing, and a sequence without targets is
    "running", its masks_left unchanged.

    Args:
        canvas_row: int64 ``[batch]``, distinct.
        position: int64 ``[logit_rows]``, below the length of its sequence; an eligible one stands
            there once. token: int64 ``[logit_rows]``; score (ranked), probability (recorded)
            float64.
        rule_value: float64 ``[batch]``: threshold, factor or bound.
        quota: int64 ``[batch]``, the most tokens to commit; the rule "quota" commits that many.
        length: int64 ``[batch]``, canvas length; rule: a value of `RULES`.
    """
    state = (canvas, committed_at, committed, masks_left, status, forward)
    rows = (canvas_row, l_offsets, position, token, score, probability)
    rest = (rule_value, quota, length, end_ids, rule, early_stop, mask_id, fill_id)
    return _run("unmask_", (canvas,), *state, *rows, *rest)


def cpu_isa() -> str:
    """Instruction set of the CPU kernels in use: "avx512", "avx2", "portable", or "torch"."""
    return told("cpu_isa") if loaded("_C") else "torch"


def set_cpu_isa(name: str) -> None:
    """Chooses the instruction set of the CPU kernels; RuntimeError where it is not supported."""
    if not loaded("_C"):
        raise RuntimeError("dpad.ops.set_cpu_isa: the compiled module is not loaded")
    torch.ops.dpad.set_cpu_isa.default(name)
    told.cache_clear()
