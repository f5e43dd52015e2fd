"""Operators of a routed MLP: the experts of each row, their products, the sum of the results."""

from torch import Tensor

from dpad.ops import _dispatch


def route(
    logits: Tensor,
    bias: Tensor | None,
    top_k: int,
    score: str = "softmax",
    normalise: bool = True,
    groups: int = 1,
    top_groups: int = 1,
    scaling: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The experts of each row of a routed MLP, and the pairs of rows and experts sorted by expert.

    Pair ``row * top_k + k`` is the k-th expert of a row. A NaN logit ranks first and makes the
    weights of its row NaN; experts are valid whatever the logits hold.

    Args:
        logits: ``[rows, experts]``, at most 2**31 - 32 experts and less than 2**31 pairs; bias:
            float32 ``[experts]`` or None, added to the scores that choose and not to the weights.
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
    return _dispatch.run("route", (logits, bias), logits, bias, *args)


def grouped_linear(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
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
    return _dispatch.run("grouped_linear", (x, weight), x, weight, offsets)


def grouped_swiglu(x: Tensor, row: Tensor, gate: Tensor, up: Tensor, offsets: Tensor) -> Tensor:
    """``silu(x gate[e]^T) * (x up[e]^T)`` of the rows of each expert e, read where they lie in x.

    The bits of `grouped_linear` on ``x[row]`` and of `swiglu`, without their intermediate results.

    Args:
        x: ``[rows, in_features]``; row: int64 ``[places]``, the row of x at each place of the order
            by expert; gate, up: ``[experts, ffn, in_features]``; offsets: int32 ``[experts]``, the
            end of each expert's places.

    Returns:
        ``[places, ffn]``.
    """
    return _dispatch.run("grouped_swiglu", (x, gate, up), x, row, gate, up, offsets)


def combine(
    y: Tensor,
    order: Tensor,
    weight: Tensor,
    full_precision: bool = True,
    round_weights: bool = True,
) -> Tensor:
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
    return _dispatch.run("combine", (y, weight), y, order, weight, full_precision, round_weights)
