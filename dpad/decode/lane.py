"""How a sequence is decoded: its sampling, its caller's code, and what it shares a pass by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dpad import ops

if TYPE_CHECKING:
    from dpad.decode.sequence import Sequence


@dataclass(frozen=True)
class Sampling:
    """How logits become tokens and scores.

    `suppress` ids are never chosen, `exclude` ids are left out of the soft-max. `guidance` w mixes
    logits as u + (w + 1)(c - u), u those of the given text hidden (LLaDA, arXiv 2502.09992, eq.
    16); 0 is off. `top_p` and `top_k` filter the distribution; scores are then, and with `tempered`
    always, those of the distribution that tokens are drawn from (Dream, arXiv 2508.15487), else of
    the logits as they are. `before_filters`: they are those before top-p and top-k, of the token
    that was drawn after. `top_k_first`: the nucleus is that of the k best. `within_top_p`: without
    the id that passes it, of a distribution without the ids that are never chosen (MDLM).
    `random_order` ranks by uniform draws; `round_scores` rounds scores to the logits' dtype.
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    tempered: bool = False
    before_filters: bool = False
    top_k_first: bool = False
    within_top_p: bool = False
    guidance: float = 0.0
    suppress: tuple[int, ...] = ()
    exclude: tuple[int, ...] = ()
    round_scores: bool = False
    random_order: bool = False

    @property
    def filtered(self) -> bool:
        """Whether logits are divided by the temperature and filtered before they are scored."""
        return bool(self.tempered or self.top_p or self.top_k)


@dataclass(eq=False)
class Hooks:
    """A caller's own code in the loop; one object for all sequences of a call.

    What it raises ends the sequences it belongs to, and no others.

    `kept(q)` replaces the suffix draw of the block. `noise(sequences, positions, vocab)` gives the
    Gumbel noise (float64 ``[logit_rows, vocab]``) and `order(sequences, positions, eligible)` the
    ranked scores (float64 ``[logit_rows]``) of a pass. `whole_logits(layout, sequences, rows,
    canvas)` gets the logits of all rows of a pass, ``[rows, vocab]``, and returns those of its
    targets. `process_logits(sequences, targets, logits, canvas)` gets logits ``[logit_rows,
    vocab]`` (guidance mixed in, its own to write to) and the `Canvas` they were computed from, and
    returns the logits to decide by. `on_begin(canvas, sequences)` comes before the first pass,
    `on_step(step)` after each commit with a `dpad.decode.step.Step`, before the status is read.
    `on_block(q, tokens)` gets a finished block; if it returns true, the sequence ends there.
    """

    kept: Callable[..., Any] | None = None
    noise: Callable[..., Any] | None = None
    order: Callable[..., Any] | None = None
    whole_logits: Callable[..., Any] | None = None
    process_logits: Callable[..., Any] | None = None
    on_begin: Callable[..., Any] | None = None
    on_step: Callable[..., Any] | None = None
    on_block: Callable[..., Any] | None = None

    IN_STEP = ("noise", "order", "whole_logits", "process_logits")  # called within a step

    def within_step(self) -> str | None:
        """Name of a function that is called between forward and commit, or None."""
        return next((n for n in self.IN_STEP if getattr(self, n) is not None), None)


NO_HOOKS = Hooks()


class Lane(NamedTuple):
    """What sequences agree in that share a pass: everything about it but tensors.

    Thresholds, temperatures, quotas, seeds, lengths and the like are tensors, one value for each
    sequence, and never split a pass.
    """

    rule: int
    score: str
    drawn_order: bool
    filters: tuple[bool, bool] | None  # whether there is a nucleus, and a top-k
    top_k_first: bool
    within_top_p: bool
    scaled_scores: bool | None  # scores before the filters: of logits / temperature, or as they are
    guided: bool
    hides_given: bool  # from the second stream: text that was given anywhere, else the prompt
    random_order: bool
    suppress: tuple[int, ...]
    exclude: tuple[int, ...]
    round_scores: bool
    end_ids: tuple[int, ...]
    early_stop: int  # of `ops.STOPS`
    fill_id: int
    mask_id: int
    causal_block: int  # block length of block-causal attention, else 0
    remembered: int  # longest block of a rule that keeps what it saw of it, else 0
    remasks: bool  # whether tokens may become masks again
    tells_head: bool  # whether the host asks for the first target of each pass
    hooks: Hooks | None  # where they are called within the step


def lane_of(q: "Sequence") -> Lane:
    """The `Lane` of a sequence."""
    sampling, rule, hooks = q.sampling, q.rule, q.hooks
    filters = (bool(sampling.top_p), bool(sampling.top_k)) if sampling.filtered else None
    scaled = None
    if filters and any(filters) and sampling.before_filters:
        scaled = sampling.tempered
    return Lane(
        rule=rule.number,
        score=rule.score,
        drawn_order=rule.order_temperature > 0,
        filters=filters,
        top_k_first=sampling.top_k_first,
        within_top_p=sampling.within_top_p,
        scaled_scores=scaled,
        guided=bool(sampling.guidance),
        hides_given=bool(sampling.guidance) and q.given is not None,
        random_order=sampling.random_order,
        suppress=sampling.suppress,
        exclude=sampling.exclude,
        round_scores=sampling.round_scores,
        end_ids=q.end_ids,
        early_stop=ops.STOPS[q.stop_in if q.early_stop else "never"],
        fill_id=q.fill_id,
        mask_id=q.mask_id,
        causal_block=q.block_length if q.causal else 0,
        remembered=q.block_length if rule.remembers else 0,
        remasks=rule.remask is not None,
        tells_head=q.causal and q.cache == "dual",
        hooks=hooks if hooks.within_step() else None,
    )
