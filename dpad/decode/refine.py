"""Refinement of a finished draft: its least certain tokens are masked and decoded once more."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from dpad import ops
from dpad.decode.replan import Change, Replan, masked_again
from dpad.values import one_of, optional, real, whole

SELECT_BY = ("snapshot", "posthoc", "random")


@dataclass(frozen=True)
class Refine:
    """Masks the least certain tokens of a draft and decodes them again with everything in view
    (Diffusion in Diffusion, arXiv 2601.13599), for `refine=`. Experimental.

    Args:
        ratio: share of the answer's tokens before its end that is masked again, rounded down; 0
            leaves the draft as it is.
        block_length: the answer is decoded again in blocks of this length that hold masks; None: in
            one, from the first to the last of them.
        select_by: what is least certain: "snapshot", by the probability that a token had when it
            was committed; "posthoc", by the one it has in the finished draft, which costs a
            forward; "random", any.
        rounds: how often; the tokens of a round take part in the next selection.
        min_confidence: only tokens less probable than this are masked again; None: all may be.
    """

    fields: ClassVar = {
        "ratio": real(0, 1),
        "block_length": optional(whole(1)),
        "select_by": one_of(*SELECT_BY),
        "rounds": whole(1, 1000),
        "min_confidence": optional(real(0, 1)),
    }
    ratio: float = 0.25
    block_length: int | None = None
    select_by: str = "snapshot"
    rounds: int = 1
    min_confidence: float | None = None

    def __post_init__(self) -> None:
        for name, check in self.fields.items():
            object.__setattr__(self, name, check(f"Refine.{name}", getattr(self, name)))

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {name: getattr(self, name) for name in self.fields}


class Refining(Replan):
    """The refinement of one sequence.

    `masked` and `same`: how many tokens were masked again in all rounds, and how many of them came
    back the same.
    """

    def __init__(self, how: Refine, most_steps: int) -> None:
        self.how, self.rounds = how, 0
        self.most_steps = most_steps * (how.rounds + 1)
        self.masked = self.same = 0
        self._canvas: Any = None
        self._chosen: list[int] = []
        self._before: list[int] = []

    @property
    def scans(self) -> bool:  # type: ignore[override]
        return self.measures

    def final(self, q: Any) -> bool:
        return False

    def look(self, seen: Any) -> torch.Tensor | None:
        """After a forward that only looks, what `_answer` says, with what it saw."""
        self._canvas = seen.canvas
        return self._answer(seen.q, seen.scanned) if self.measures else None

    def _answer(self, q: Any, scanned: Any = None) -> torch.Tensor:
        """Certainty (-1: not to be masked) and token of every position of the answer, float64
        ``[2, n]`` on the device; `scanned`: logits and positions to be certain by.
        """
        canvas, answer = self._canvas, slice(q.prompt_length, q.length)
        tokens, written = canvas.tokens[q.row, answer], canvas.committed_at[q.row, answer]
        certain = canvas.committed[q.row, answer]
        if scanned is not None:
            logits, position = scanned
            at = position - q.prompt_length
            p = logits.double().softmax(-1).gather(1, tokens[at][:, None])[:, 0]
            certain = certain.index_put((at,), p)
        return torch.stack((torch.where(written >= 0, certain, -1.0), tokens.double()))

    def change(self, q: Any, numbers: list[float] | None, done: bool) -> Change | None:
        if not (done or self.measures):
            return None
        if numbers is None:  # a block is done: read now, and not in every step
            certain, tokens = self._answer(q).cpu()
        else:
            certain, tokens = torch.tensor(numbers, dtype=torch.float64, device="cpu").view(2, -1)
        length = self._text_length(q, tokens)
        if self.measures:
            self.measures = False
            return self._masks(q, self._selected(q, certain[:length]), tokens)
        if not self._complete(q, length):
            return None
        self.ended = q.early_stop and length < q.shown - q.prompt_length
        # The last block, which nobody has moved on from, and the masks that an end has filled.
        q.text[: q.current[1]] = True
        now = tokens.long()
        self.same += sum(int(now[i]) == b for i, b in zip(self._chosen, self._before, strict=True))
        self._chosen, self._before = [], []
        if self.rounds == self.how.rounds:
            return None
        self.rounds += 1
        if self.how.select_by == "posthoc" and self._count(length):
            self.measures = True
            window = (q.prompt_length, q.prompt_length + length)
            return Change(blocks=[window], block=0, refresh=True)
        return self._masks(q, self._selected(q, certain[:length]), tokens)

    def _count(self, length: int) -> int:
        """Share of the answer's tokens, rounded down; not by an error of the product."""
        return int(self.how.ratio * length + 1e-9)

    @staticmethod
    def _text_length(q: Any, tokens: torch.Tensor) -> int:
        """Tokens of the answer before its first end."""
        ends = torch.isin(tokens.long(), torch.tensor(q.end_ids, dtype=torch.int64, device="cpu"))
        found = ends[: q.shown - q.prompt_length].nonzero()
        return int(found[0]) if found.numel() else q.shown - q.prompt_length

    @staticmethod
    def _complete(q: Any, length: int) -> bool:
        """Whether all is decoded, after a block that is done."""
        end = q.prompt_length + length
        ended = q.early_stop and end < min(q.current[1], q.shown)
        return ended or q.block + 1 == len(q.blocks)

    def _selected(self, q: Any, certain: torch.Tensor) -> list[int]:
        """The least certain positions of the answer, ascending."""
        count, may = self._count(certain.shape[0]), certain >= 0
        if self.how.min_confidence is not None:
            may &= certain < self.how.min_confidence
        if self.how.select_by == "random":
            certain = self._drawn(q, certain.shape[0])
        ranked = torch.where(may, certain, torch.inf).sort(stable=True).indices
        return sorted(ranked[: min(count, int(may.sum()))].tolist())

    @staticmethod
    def _drawn(q: Any, count: int) -> torch.Tensor:
        """Uniform numbers, keyed as all draws are by seed, row key, position and forward."""
        keys = torch.tensor([[q.seed, q.row_key, len(q.forwards)]], device="cpu")
        offsets = torch.tensor([0, count], device="cpu")
        position = torch.arange(q.prompt_length, q.prompt_length + count, device="cpu")
        return ops.uniform(keys, offsets, position)

    def _masks(self, q: Any, chosen: list[int], tokens: torch.Tensor) -> Change | None:
        """The change that masks the chosen positions of the answer, or None for none."""
        if not chosen:
            return None
        self.masked += len(chosen)
        self._chosen, self._before = chosen, tokens.long()[chosen].tolist()
        positions = [q.prompt_length + i for i in chosen]
        source = masked_again(q.length, positions)
        return Change(source, blocks=self._windows(q, positions), block=0)

    def _windows(self, q: Any, positions: list[int]) -> list[tuple[int, int]]:
        """The blocks to decode again."""
        width = q.block_length if q.causal else self.how.block_length
        if width is None:
            return [(positions[0], positions[-1] + 1)]
        begin = q.prompt_length - q.prompt_length % width if q.causal else q.prompt_length
        starts = sorted({begin + (p - begin) // width * width for p in positions})
        return [(max(s, q.prompt_length), min(s + width, q.length)) for s in starts]
