"""Operators that decide: tokens and scores of the logit rows, and what is committed."""

from torch import Tensor

from dpad.ops import _dispatch


def confidence(
    logits: Tensor,
    l_offsets: Tensor,
    position: Tensor,
    rng: Tensor,
    temperature: Tensor,
    suppress: Tensor,
    exclude: Tensor,
    noise: Tensor | None = None,
    round_to_dtype: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
    return _dispatch.run("confidence", (logits,), logits, *args)


def uniform(rng: Tensor, l_offsets: Tensor, position: Tensor) -> Tensor:
    """Uniform draws in (0, 1], one per logit row: the order of random remasking.

    Args:
        rng: int64 ``[batch, 3]``: seed, row key, number of the forward.
        position: int64 ``[logit_rows]``.

    Returns:
        float64 ``[logit_rows]``.
    """
    return _dispatch.run("uniform", (rng,), rng, l_offsets, position)


def unmask_(
    canvas: Tensor,
    committed_at: Tensor,
    committed: Tensor,
    masks_left: Tensor,
    status: Tensor,
    forward: Tensor,
    canvas_row: Tensor,
    l_offsets: Tensor,
    position: Tensor,
    token: Tensor,
    score: Tensor,
    probability: Tensor,
    rule_value: Tensor,
    quota: Tensor,
    length: Tensor,
    end_ids: Tensor,
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
    return _dispatch.run("unmask_", (canvas,), *state, *rows, *rest)
