"""Dream's hooks, and its history: the canvas as the caller laid it out, step by step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dpad.decode.canvas import Canvas
from dpad.decode.layout import Layout
from dpad.decode.sequence import Sequence
from dpad.decode.step import Step
from dpad.generation.processing import plain_mode


class CanvasView:
    """The caller's canvas, ``[batch, columns]`` with its padding, over the decoder's dense one.

    `ids` int64 ``[batch, prompt columns]`` and `mask` bool or None as given to ``generate``.
    """

    def __init__(self, ids: Tensor, mask: Tensor | None, new_tokens: int, mask_id: int) -> None:
        batch, self.prompt_columns = ids.shape
        self.mask_id = mask_id
        self.base = torch.nn.functional.pad(ids, (0, new_tokens), value=mask_id)
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.to(ids.device)
        generated = torch.ones(batch, new_tokens, dtype=torch.bool, device=ids.device)
        self.sequences: list[Sequence] = []  # those of the call, once it has begun
        self.columns = [row.nonzero()[:, 0] for row in torch.cat((real, generated), dim=1)]

    def _rows(self, canvas: Canvas) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(number, the columns of the caller's canvas, the tokens there) of every row.

        A sequence that has ended has left the decoder's canvas; what is written goes to its result.
        """
        for q in self.sequences:
            dense = canvas.tokens[q.row] if q.result is None else q.result.tokens
            columns = self.columns[q.number]
            yield q.number, columns, dense[: columns.numel()]

    def read(self, canvas: Canvas) -> Tensor:
        """int64 ``[batch, columns]``, a new tensor where the caller's ids are."""
        x = self.base.clone()
        for row, columns, tokens in self._rows(canvas):
            x[row, columns] = tokens.to(x.device)
        return x

    def write(self, canvas: Canvas, x: Any, name: str) -> None:
        """Takes over the tokens of `x`; padding stays.

        Raises ValueError, naming the hook, for another shape or dtype, or a mask in the prompt.
        """
        good = isinstance(x, torch.Tensor) and x.shape == self.base.shape
        if not good or x.dtype != self.base.dtype:
            got = (list(x.shape), x.dtype) if isinstance(x, torch.Tensor) else type(x).__name__
            raise ValueError(
                f"{name} returned {got}: expected int64 ids {list(self.base.shape)} like its x"
            )
        for row, columns, tokens in self._rows(canvas):
            given = x[row, columns]
            if (given[columns < self.prompt_columns] == self.mask_id).any():
                raise ValueError(f"{name} put the mask id {self.mask_id} into the prompt of {row}")
            tokens.copy_(given)


@dataclass
class StepHooks:
    """What ``diffusion_generate`` lets a caller do, on the decoder's own callables.

    `tokens(step, x, logits)` returns the canvas to go on with; `logits(step, x, logits)` the logits
    to decide by, ``[batch, columns, vocab]``: row i predicts position i, and is 0 at padding. The
    first position has no predecessor and keeps its own row (Dream, arXiv 2508.15487).
    """

    view: CanvasView
    shift: int
    tokens: Callable[..., Any] | None = None
    logits: Callable[..., Any] | None = None
    keeps_history: bool = False
    # Sequence -> its tokens after each of its steps.
    _histories: dict[Sequence, list[Tensor]] = field(default_factory=dict)
    _whole: torch.Tensor | None = None
    _step: int = 0

    def begin(self, canvas: Canvas, sequences: list[Sequence]) -> None:
        """Before the first pass, as Dream calls its hook: step None, no logits."""
        self.view.sequences += sequences
        self._histories.update({q: [] for q in sequences})
        if self.tokens is None:
            return
        self._edit(canvas, None)
        for q in sequences:
            start, end = q.current
            q.masks = int((canvas.tokens[q.row, start:end] == q.mask_id).sum())

    @plain_mode()
    def whole_logits(
        self, layout: Layout, live: list[Sequence], rows: Tensor, canvas: Canvas
    ) -> Tensor:
        """All rows of a pass ``[rows, vocab]`` -> the rows of its targets, after the hook."""
        x = self.view.read(canvas)
        whole = rows.new_zeros(*x.shape, rows.shape[-1])
        bounds = layout.q_offsets.tolist()
        places = []
        for b, q in enumerate(live):
            row = rows[bounds[b] : bounds[b + 1]]
            if self.shift:
                row = torch.cat((row[:1], row[:-1]))
            columns = self.view.columns[q.number].to(rows.device)
            whole[q.number, columns] = row
            target = slice(*layout.targets.l_offsets[b : b + 2].tolist())
            places.append((q.number, columns[layout.targets.position[target]]))
        if self.logits is not None:
            shape = whole.shape
            whole = self.logits(self._step, x, whole)
            if not isinstance(whole, torch.Tensor) or whole.shape != shape:
                raise ValueError(
                    f"generation_logits_hook_func returned {getattr(whole, 'shape', whole)!r}: "
                    f"expected logits {list(shape)}"
                )
        self._whole = whole
        return torch.cat([whole[row, columns] for row, columns in places]).to(rows.dtype)

    def after_step(self, step: Step) -> None:
        """After a commit: the tokens hook, then the history."""
        if self.tokens is not None:
            self._edit(step.canvas, self._step)
            step.settle()
        if self.keeps_history:
            for q in step.live:
                self._histories[q].append(step.canvas.tokens[q.row, : q.length].clone())
        self._step += 1

    @plain_mode()
    def _edit(self, canvas: Canvas, step: int | None) -> None:
        assert self.tokens is not None
        x = self.tokens(step, self.view.read(canvas), self._whole)
        self.view.write(canvas, x, "generation_tokens_hook_func")

    def joined_history(self) -> tuple[Tensor, ...]:
        """The canvas ``[batch, columns]`` after each step; a row that has ended stays as it was."""
        longest = max(map(len, self._histories.values()))
        steps = [self.view.base.clone() for _ in range(longest)]
        for q, history in self._histories.items():
            columns = self.view.columns[q.number]
            for step, x in enumerate(steps):
                x[q.number, columns] = history[min(step, len(history) - 1)].to(x.device)
        return tuple(steps)
