"""Phases: what a pass of a sequence computes and predicts, as data, and what comes after it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

from dpad import ops
from dpad.decode.attention import WIDE_ROWS

if TYPE_CHECKING:
    from dpad.decode.sequence import Sequence

NOTHING = torch.empty(0, dtype=torch.int64, device="cpu")
_ALL, _SUFFIX, _BLOCK = (ops.SCOPES[name] for name in ("all", "suffix", "block"))
_DONE, _FINISHED = ops.STATUS["block_done"], ops.STATUS["finished"]

# (attention, cache) -> scope of the passes that denoise; with block-causal attention "all" begins
# at the first slot whose K/V is not exact yet.
CACHED_SCOPE = {
    ("full", "none"): _ALL,
    ("full", "prefix"): _SUFFIX,
    ("full", "dual"): _BLOCK,
    ("block-causal", "none"): _ALL,
    ("block-causal", "prefix"): _ALL,
    ("block-causal", "dual"): _BLOCK,
}


class Place(NamedTuple):
    """The block [start, end) of a pass, its scope, the first slot that scope "all" computes, and
    the first position with a logit row.
    """

    start: int
    end: int
    scope: int
    first: int
    first_target: int


# "next" saves the block before and predicts the first token of the next one from its last row;
# "measure" computes everything for a `Replan` to look at, and commits nothing.
PHASES: dict[str, Callable[["Sequence"], Place]] = {
    "measure": lambda q: Place(q.current[0], q.current[1], _ALL, 0, q.current[1]),
    "refresh": lambda q: Place(q.current[0], q.current[1], _ALL, _refreshed_from(q), q.current[0]),
    "denoise": lambda q: Place(
        q.part[0], q.part[1], _scope(q), _exact(q), max(q.part[0], q.open_from)
    ),
    "prefill": lambda q: Place(unseen(q), q.window[0], _ALL, unseen(q), q.window[0]),
    "next": lambda q: Place(q.window[0], q.window[0] + 1, _ALL, _exact(q), q.window[0]),
    "save": lambda q: Place(q.window[0], q.window[1], _BLOCK, 0, q.window[1]),
}


def phase_of(q: "Sequence") -> str:
    """The phase of the next pass of a sequence."""
    if not q.causal:
        if q.replan is not None and q.replan.measures:
            return "measure"
        return "denoise" if q.step else "refresh"
    if q.outcome is not None:
        return "save"
    opens = max(q.saved, unseen(q)) < q.window[0]
    if opens and q.first_given and q.current[0] == q.window[0]:
        return "next"
    return "prefill" if opens and q.saves_apart and q.cache != "none" else "denoise"


def unseen(q: "Sequence") -> int:
    """How many leading positions a pass of a block-causal sequence does not look at."""
    return 0 if q.context is None else max(q.window[1] - q.context, 0)


def seen_until(q: "Sequence", place: Place) -> int:
    """Where the block of a block-causal pass ends: the rest of it is looked at, too."""
    return q.window[1] if q.phase == "denoise" else place.end


def behind(q: "Sequence", place: Place) -> torch.Tensor:
    """int64 positions behind the place that its rows look at."""
    if not q.causal:
        return q.kept
    last = seen_until(q, place)
    return torch.arange(place.end, last, device="cpu") if last > place.end else NOTHING


def rows_of(q: "Sequence", place: Place) -> int:
    """Rows that the pass computes, without a predecessor that may join it."""
    first = min(place.first, place.start) if place.scope == _ALL else place.start
    more = seen_until(q, place) - place.end if q.causal else q.kept.numel()
    return q.streams * (place.end - first + (0 if place.scope == _BLOCK else more))


def is_short(q: "Sequence") -> bool:
    """Whether the next pass has few rows, and about as many in every block: a denoising step, or a
    refresh that looks back on some blocks only.
    """
    if q.phase != "refresh":
        return not q.refresh
    return _looks_back(q) and not q.scans and q.rows < WIDE_ROWS * q.streams


def passed(q: "Sequence", status: int, head_masked: int) -> int | None:
    """Takes up a pass of `q` that was made; the status of its block if that is done, else None.

    `head_masked`: whether the first of its targets is still a mask.
    """
    phase = q.phase
    if q.causal:
        q.saved = q.window[phase == "save"]
    if phase == "save":
        return q.outcome
    if phase in ("prefill", "measure"):
        return None
    if phase == "next":
        return status if status == _FINISHED or q.open_from == q.current[1] else None
    q.step += 1
    q.head_known, q.block_cached = q.head_known or not head_masked, True
    done = status in (_DONE, _FINISHED)
    if q.lane.remasks:  # until its last time what is committed may be masked again
        done = done and q.step >= q.schedule.steps_of(q.block)
    if q.all_steps or q.bounded:
        done = (done and not q.all_steps) or q.step >= q.schedule.steps_of(q.block)
    if not done or (status == _DONE and q.next_part()):
        return None
    whole = status in (_DONE, _FINISHED) or not q.whole_saves
    if q.saves_apart and whole and not q.first_given and q.cache != "none":
        q.outcome = status
        return None
    return status


def _looks_back(q: "Sequence") -> bool:
    """Whether a refresh computes no more than the `look_back` blocks before its own."""
    whole = q.refresh_period is not None and q.block % q.refresh_period == 0
    return q.look_back is not None and not whole and q.block > 0


def _refreshed_from(q: "Sequence") -> int:
    """The first slot that a refresh computes."""
    if q.look_back is None or not _looks_back(q):
        return 0
    return q.blocks[max(q.block - q.look_back, 0)][0]


def _scope(q: "Sequence") -> int:
    scope = CACHED_SCOPE[q.attention, q.cache]
    # The first row of a part of a block has no row before it to be predicted from, so the whole
    # block is computed until it is known (Fast-dLLM v2, arXiv 2509.26328).
    if q.causal and scope == _BLOCK and not (q.block_cached and q.head_known):
        return _ALL
    return scope


def _exact(q: "Sequence") -> int:
    """How many slots have their final K/V, of those that a pass need not compute."""
    if not q.causal:
        return 0
    return unseen(q) if q.cache == "none" else max(q.saved, unseen(q))
