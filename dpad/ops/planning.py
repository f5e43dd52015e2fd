"""Operators that plan a pass, on the CPU: which suffix is kept, and how rows are laid out."""

from torch import Tensor

from dpad.ops import _dispatch


def suffix_table(
    kind: str,
    grid: str,
    window: int,
    decay: float,
    scale: float,
    count: float,
    near: int,
    length: int,
) -> Tensor:
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
    return _dispatch.run("suffix_table", (), kind, grid, window, decay, scale, count, near, length)


def transfer_schedule(masks: int, steps: int) -> Tensor:
    """Positions to commit in each of `steps` steps: LLaDA's linear schedule (arXiv 2502.09992).

    Returns:
        int64 ``[steps]``, summing to `masks`.
    """
    return _dispatch.run("transfer_schedule", (), masks, steps)


def suffix_sample(
    seed: Tensor,
    row_key: Tensor,
    block: Tensor,
    redraw: Tensor,
    end: Tensor,
    total: Tensor,
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
) -> tuple[Tensor, Tensor]:
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
    return _dispatch.run("suffix_sample", (seed,), seed, row_key, block, redraw, end, total, *args)


def plan_pass(
    start: Tensor,
    end: Tensor,
    kept: Tensor,
    kept_count: Tensor,
    scope: Tensor,
    first: Tensor,
    first_target: Tensor,
    unseen: Tensor,
    predecessor: Tensor,
    shift: int = 0,
    block_length: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
    return _dispatch.run("plan_pass", (start,), *args, shift, block_length)
