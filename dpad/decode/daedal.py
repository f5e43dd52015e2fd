"""Answers whose length follows from the model (DAEDAL, arXiv 2508.00819)."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from dpad.decode.replan import Change, Replan, Seen, windows, with_masks
from dpad.values import MOST_POSITIONS, flag, real, whole

_FIELDS = {
    "initial_length": whole(1, MOST_POSITIONS),
    "expansion": whole(1, MOST_POSITIONS),
    "window": whole(1, MOST_POSITIONS),
    "end_confidence": real(0, 1),
    "low_confidence": real(0, 1),
    "expand_below": real(0),
    "tail": flag,
}


@dataclass(frozen=True)
class Daedal:
    """How an answer grows (DAEDAL, arXiv 2508.00819); the defaults are the released program's.

    The confidence in an end is the sum of the probabilities of end ids at the last `window`
    positions that predict one, over `window`: 1 if so many positions are sure to be behind the end.

    Args:
        initial_length: masks that the answer begins with.
        expansion: masks that are added at a time.
        window: positions that an end is looked for at.
        end_confidence: before anything is decoded the canvas grows until the confidence in an end
            reaches this.
        low_confidence: while a block is decoded, its least probable mask becomes `expansion` masks
            if its probability is below this,
        expand_below: and if the confidence in an end is below this.
        tail: before decoding begins, ``window // 2`` end ids are put behind the canvas. The
            released program does so, the paper does not.

    ``max_new_tokens`` is the greatest length.

    Raises:
        ValueError: a value out of range.
    """

    initial_length: int = 64
    expansion: int = 8
    window: int = 32
    end_confidence: float = 0.5
    low_confidence: float = 0.1
    expand_below: float = 0.9
    tail: bool = True

    def __post_init__(self) -> None:
        for name, kind in _FIELDS.items():
            object.__setattr__(self, name, kind(f"Daedal.{name}", getattr(self, name)))

    def as_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, for serialisation."""
        return {f.name: v for f in fields(self) if (v := asdict(self)[f.name]) != f.default}


class Growth(Replan):
    """Lets one sequence grow as a `Daedal` says.

    `inside`: text follows behind the masks, where no end is to be found: the canvas grows where the
    model is unsure only, and begins with the masks that it has.
    """

    def __init__(self, how: Daedal, end_ids: tuple[int, ...], inside: bool = False) -> None:
        self.how, self.end_ids = how, end_ids
        self.scans = self.measures = not inside
        self.end = 0.0  # the confidence in an end, as of the last pass that looked for it

    def look(self, seen: Seen) -> torch.Tensor | None:
        end = seen.probability.new_full((1,), torch.nan)
        if seen.scanned is not None:
            end = self._confidence(seen.scanned[0])[None]
        if not seen.position.shape[0]:
            return end
        open_ = seen.probability.masked_fill(~seen.masked, torch.inf)
        lowest, at = open_.min(0, keepdim=True)
        return torch.cat((end, lowest, seen.position[at].double()))

    def _confidence(self, logits: torch.Tensor) -> torch.Tensor:
        """The confidence in an end; `logits` ``[n, vocab]`` by ascending position."""
        probability, token = logits.float().softmax(-1).max(-1)
        ends = torch.zeros_like(token, dtype=torch.bool)
        for end_id in self.end_ids:
            ends |= token == end_id
        last = ends.flip(0).cumsum(0).flip(0) <= self.how.window
        return (probability.double() * (ends & last)).sum() / self.how.window

    def change(self, q: Any, numbers: list[float] | None, done: bool) -> Change | None:
        assert numbers is not None
        if numbers[0] == numbers[0]:  # else this pass has computed the block only
            self.end = numbers[0]
        how, room = self.how, q.capacity - q.length
        if self.measures:
            return self._before(q, room)
        if done or not room or how.expansion == 1 or self.end >= how.expand_below:
            return None
        lowest, at = numbers[1:]
        if not lowest < how.low_confidence:
            return None
        # As published what no longer fits is cut off at the end; text behind is never touched.
        most = q.capacity if self.scans else None
        count = how.expansion if self.scans else min(how.expansion, room + 1)
        source = with_masks(q.length, int(at), count, 1, most)
        return Change(source, blocks=blocks_from(q, source))

    def _before(self, q: Any, room: int) -> Change | None:
        """Before decoding: more masks, or the end ids behind them."""
        how, grows = self.how, self.end < self.how.end_confidence and room > 0
        self.measures = grows
        count = min(how.expansion if grows else how.window // 2 * how.tail, room)
        if not count:
            return None
        source = with_masks(q.length, q.length, count)
        tokens = None if grows else torch.full_like(source, self.end_ids[0])
        return Change(source, tokens, blocks_from(q, source, count if tokens is not None else 0))

    def pinned(self, q: Any) -> slice | None:
        """The window, and the position before it, whose row may predict its first one."""
        return slice(max(q.length - self.how.window - 1, 0), None) if self.scans else None


def blocks_from(q: Any, source: torch.Tensor, tail: int = 0) -> list[tuple[int, int]]:
    """The blocks of a sequence after a change: those before stay, the one at hand begins where it
    did. `tail`: positions of text at the end of the new canvas.
    """
    text = q.text[source.clamp(min=0)] & (source >= 0)
    text[text.shape[0] - tail :] = True
    return q.blocks[: q.block] + windows(text, q.current[0], q.block_length)
