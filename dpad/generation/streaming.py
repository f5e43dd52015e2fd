"""Drafts and finished blocks to a Transformers streamer."""

import contextlib
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from dpad.decode.step import Step


class BlockStreamer:
    """Feeds a streamer the prompt, then drafts and finished blocks, in order.

    `put` gets the prompt and each finished block; a text ends at its first end id: the id itself is
    passed on, nothing behind it. A streamer with `put_draft` also gets the current block after
    every step, as Transformers' diffusion models send it: ``value`` int64 ``[1, block]``, the
    model's prediction where nothing is committed yet, or, if the streamer sets `_takes_logits`,
    ``logits`` ``[1, block, vocab]``. Everything is on the CPU. `end` comes last, also after an
    error, so that whoever reads a `TextIteratorStreamer` is not left waiting.
    """

    def __init__(self, streamer: Any, prompt: Tensor, end_ids: Sequence[int]) -> None:
        self.streamer, self.prompt = streamer, prompt
        self.end_ids = torch.tensor(end_ids, dtype=torch.int64, device="cpu")
        self.ended = False
        self.takes_drafts = callable(getattr(streamer, "put_draft", None))

    def __enter__(self) -> Self:
        self.streamer.put(self.prompt.cpu())
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
            self.streamer.end()

    def step(self, step: Step) -> None:
        """Sends the draft of a `dpad.decode.step.Step`."""
        if self.ended:
            return
        if getattr(self.streamer, "_takes_logits", False):
            self.streamer.put_draft(logits=step.logits[None].cpu())
            return
        tokens = step.canvas.tokens[step.targets.canvas_row[0], step.targets.position]
        draft = torch.where(tokens == step.lane.mask_id, step.token, tokens)
        self.streamer.put_draft(value=draft[None].cpu())

    def block(self, tokens: Tensor) -> None:
        """`tokens`: int64 ``[block]``, all committed."""
        tokens = tokens.cpu()
        if self.ended:
            return
        ends = torch.isin(tokens, self.end_ids).nonzero()[:, 0]
        if ends.numel():
            self.ended = True
            tokens = tokens[: int(ends[0]) + 1]
        self.streamer.put(tokens)


def check_streamer(streamer: Any, rows: int) -> None:
    """Refuses a streamer that cannot be fed.

    Raises:
        ValueError: more than one row.
        TypeError: no `put` or `end`.
    """
    if rows > 1:
        raise ValueError(f"streamer takes one row, the batch has {rows}")
    for name in ("put", "end"):
        if not callable(getattr(streamer, name, None)):
            raise TypeError(f"streamer is a {type(streamer).__name__} without {name}()")
