"""Tokens of the current block that are edited after they were filled (LLaDA2.1)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from dpad.decode.replan import Change, Replan, Seen
from dpad.values import real, whole


@dataclass(frozen=True)
class Edit:
    """Replaces tokens of the current block, for `edit=` (LLaDA2.1, arXiv 2602.08676).

    Args:
        threshold: a token that the model filled gives way to another one that it predicts with a
            greater probability than this.
        most_steps: steps that a block without masks may take; it is done with the first of them
            that edits nothing.
    """

    fields: ClassVar = {"threshold": real(0), "most_steps": whole(0, 1000)}
    threshold: float = 0.9
    most_steps: int = 16

    def __post_init__(self) -> None:
        for name, check in self.fields.items():
            object.__setattr__(self, name, check(f"Edit.{name}", getattr(self, name)))

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {name: getattr(self, name) for name in self.fields}


class Editing(Replan):
    """Edits one sequence. The end of its text is looked for here, once a block stays as it is.

    `edited`: how many tokens were replaced.
    """

    def __init__(self, how: Edit, end_ids: tuple[int, ...], early_stop: bool, length: int) -> None:
        self.how, self.end_ids, self.early_stop = how, end_ids, early_stop
        self.most_steps = (1 + how.most_steps) * length
        self.edited = 0
        self._filled = False  # whether the last pass began with no mask
        self._steps = 0  # of those that did

    def look(self, seen: Seen) -> torch.Tensor:
        """Edits on the device: (tokens replaced, whether the block holds an end)."""
        canvas, place = seen.canvas, (seen.q.row, seen.position)
        tokens, written = canvas.tokens[place], canvas.committed_at[place]
        sure = (written >= 0) & (seen.probability > self.how.threshold)
        edits = sure & (seen.token != tokens)
        tokens = torch.where(edits, seen.token, tokens)
        canvas.tokens[place] = tokens
        canvas.committed_at[place] = torch.where(edits, canvas.forward[seen.q.row] - 1, written)
        probability = torch.where(edits, seen.probability, canvas.committed[place])
        canvas.committed[place] = probability
        ends = torch.zeros_like(edits)
        for end_id in self.end_ids:
            ends |= tokens == end_id
        own = canvas.committed_at[place] >= 0
        return torch.stack((edits.sum(), (ends & own).sum()))

    def change(self, q: Any, numbers: list[float] | None, done: bool) -> Change | None:
        assert numbers is not None
        edits, ends = map(int, numbers)
        self.edited += edits
        if not done:
            return None
        self._steps = self._steps + 1 if self._filled else 0
        if self._steps < self.how.most_steps and (edits or not self._filled):
            self._filled = True
            return Change()  # the same block once more
        self._filled, self.finished = False, self.early_stop and ends > 0
        return None
