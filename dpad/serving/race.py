"""Ways to decode one prompt beside each other: forward by forward, each on its own clock."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

import dpad
from dpad.engine import Draft, End
from dpad.generation.api import merge
from dpad.generation.config import DPadGenerationConfig
from dpad.generation.html import draft_html, strip_html, table
from dpad.generation.output import TRACE_FORMAT, TRACE_VERSION, Trace

END_MARK = "\u25aa"  # in place of an end id's name, which is long
SEEN = ("block", "confidence", "transfer_index", "kept_suffix")


def ordinary(config: DPadGenerationConfig) -> dict[str, Any]:
    """Options that make every decision of ordinary decoding: the whole canvas is computed in every
    step, and the surest token is committed.
    """
    return {
        "max_new_tokens": config.max_new_tokens,
        "block_length": config.block_length,
        "steps": config.max_new_tokens,
        "suffix": dpad.Suffix("all"),
        "cache": "none",
        "early_stop": False,
    }


class Side:
    """One prompt on an engine of its own, whose steps are taken by `step`.

    Args:
        title: what to call it.
        model, tokenizer: the model may decode for others meanwhile.
        ids: token ids of the prompt.
        config: a `DPadGenerationConfig` or None, that `options` stand on.
        options: of `dpad.generate`.

    Attributes:
        forwards, seconds: so far; the seconds are those of its own steps.
        trace: a `dpad.generation.output.Trace` of what was committed so far.
        finished: whether the answer is complete.

    Raises:
        ValueError, TypeError: what `dpad.Engine` refuses.
    """

    def __init__(
        self,
        title: str,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        ids: list[int],
        config: DPadGenerationConfig | None,
        options: dict[str, Any],
    ) -> None:
        whole = merge(model, None, config, options)
        self.title, self._tokenizer, self.canvas = title, tokenizer, whole.max_new_tokens
        slots = 2 * (len(ids) + self.canvas)  # twice: guidance has two streams
        self._engine = dpad.Engine(model, max_sequences=1, max_tokens=slots, queue=1)
        self._request = self._engine.submit(
            ids,
            generation_config=config,
            stream="drafts",
            callback_on_step_end=self._on_step,
            callback_on_step_end_tensor_inputs=SEEN,
            **options,
        )
        self._events = iter(self._request)
        self._draft: dict[int, tuple[str, float]] = {}
        self.forwards, self.seconds, self.finished = 0, 0.0, False
        self._prompt = len(ids)
        self._texts: dict[str, str] = {}
        self._kept: list[int] = []
        header = {"format": TRACE_FORMAT, "version": TRACE_VERSION, "texts": self._texts}
        header |= {"prompt_lengths": [len(ids)], "config": whole.to_diff_dict()}
        self.trace = Trace({**header, "seed": self._request.sequence.seed})

    def step(self) -> None:
        """Takes one forward; raises what ended the request, if it failed."""
        begun = time.perf_counter()
        event = next(self._events)
        while not isinstance(event, Draft | End):
            event = next(self._events)
        self.seconds += time.perf_counter() - begun
        if isinstance(event, Draft):
            self._drafted(event)
            return
        self.finished, self._draft = True, {}
        self._request.result()

    def close(self) -> None:
        """Ends it, and frees what it holds."""
        self._engine.close()

    def _on_step(
        self, model: nn.Module, number: int, timestep: list[int], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Called by the engine after each step, before the draft is published."""
        sequence = self._request.sequence
        start, (first, end) = sequence.targets[0], sequence.current
        now = tensors["transfer_index"][0].nonzero()[:, 0].tolist()
        tokens, sure = tensors["block"][0].tolist(), tensors["confidence"][0].tolist()
        entered = not self.trace.events or self.trace.events[-1]["block"] != sequence.block
        if entered:
            self._kept = tensors["kept_suffix"][0].tolist()
        for token in (tokens[i] for i in now):
            self._texts.setdefault(str(token), self._text(token))
        self.trace.events.append(
            {
                "row": 0,
                "forward": self.forwards,
                "block": sequence.block,
                "span": [first, min(end, sequence.shown)],
                "positions": [start + i for i in now],
                "tokens": [tokens[i] for i in now],
                "confidence": [sure[i] for i in now],
                "kept": self._kept if entered else None,
                "time": self.seconds,
            }
        )
        self.forwards += 1
        self._block = first, end

    def _drafted(self, draft: Draft) -> None:
        """Where the block is open: text and confidence of the prediction, by position."""
        start = self._block[1] - len(draft.tokens)
        values = zip(draft.tokens.tolist(), draft.confidence.tolist(), draft.open, strict=True)
        self._draft = {
            start + i: (self._text(token), confidence)
            for i, (token, confidence, is_open) in enumerate(values)
            if is_open
        }

    def _text(self, token: int) -> str:
        ends = self._request.sequence.end_ids
        return END_MARK if token in ends else self._tokenizer.decode([token])

    def places(self) -> list[str]:
        """What each position of the canvas is to the last pass, keys of `html.PLACES`."""
        if not self.forwards:
            return ["dropped"] * self.canvas
        (start, end), kept = self._block, set(self._kept)
        if self.finished:
            start, kept = end, set()
        positions = range(self._prompt, self._prompt + self.canvas)
        return [
            "done" if p < start else "block" if p < end else "kept" if p in kept else "dropped"
            for p in positions
        ]

    def html(self) -> str:
        """Counters, the strip, and the text as it looks now."""
        committed = sum(len(event["positions"]) for event in self.trace.events)
        positions = self._engine.stats()["positions"]
        each = committed / self.forwards if self.forwards else 0.0
        state = "finished" if self.finished else "decoding"
        counters = table(
            ("forwards", "tokens", "tokens per forward", "positions computed", "seconds", ""),
            [
                (
                    self.forwards,
                    committed,
                    f"{each:.2f}",
                    f"{positions:,}",
                    f"{self.seconds:.2f}",
                    state,
                )
            ],
        )
        text = draft_html(self.trace, self._draft)
        return f"<div>{counters}{strip_html(self.places())}{text}</div>"


def race(sides: Sequence[Side], seconds: float) -> Iterator[None]:
    """Lets sides take turns, whoever has used least time; yields after every forward.

    Ends when all have finished, or after so many seconds.
    """
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        left = [side for side in sides if not side.finished]
        if not left:
            return
        min(left, key=lambda side: side.seconds).step()
        yield
