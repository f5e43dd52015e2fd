"""Everything of the caller's that runs inside the loop, bound to one call of `generate`."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dpad.decode.sequence import Sequence
from dpad.decode.step import Step
from dpad.generation.callback import StepCallback, check_callback
from dpad.generation.length_rules import LengthRules
from dpad.generation.processing import Criteria, Processors, check_criteria, check_processors
from dpad.generation.progress import Progress
from dpad.generation.streaming import BlockStreamer, check_streamer


@dataclass
class Conventions:
    """The arguments of `generate` that act within the loop, as they were given.

    `progress` makes the bar of a call: a function (new_tokens, end_ids) -> `Progress`.
    """

    streamer: Any = None
    logits_processor: list[Any] | None = None
    stopping_criteria: list[Any] | None = None
    callback_on_step_end: Callable[..., Any] | None = None
    callback_on_step_end_tensor_inputs: Collection[str] | None = None
    callback_on_step_end_tensor_outputs: Collection[str] | None = None
    progress: Callable[..., Progress] | bool | None = None


class BoundConventions:
    """`Conventions`, checked against one batch.

    `rules` are the `LengthRules` of each row, or None; `new_tokens` is how long each row's answer
    may become. `cuts` holds, for each row that a criterion or rule ended, how much of it stays.
    """

    def __init__(
        self,
        given: Conventions,
        model: nn.Module,
        prompts: list[Tensor],
        end_ids: tuple[int, ...],
        new_tokens: list[int],
        vocab: int,
        rules: list[LengthRules] | None = None,
    ) -> None:
        self.streamer, self.callback, self.vocab = None, None, vocab
        self.new_tokens, self.done = new_tokens, [0] * len(prompts)
        self.cuts: dict[int, int] = {}
        if given.streamer is not None:
            check_streamer(given.streamer, len(prompts))
            self.streamer = BlockStreamer(given.streamer, prompts[0], end_ids)
        processors = check_processors(given.logits_processor, len(prompts))
        self.process_logits = Processors(processors) if processors else None
        criteria = check_criteria(given.stopping_criteria, len(prompts))
        self.criteria, self.rules = None, rules
        if any(criteria):
            of_rows = zip(criteria, prompts, strict=True)
            self.criteria = [Criteria(c, prompt, end_ids) for c, prompt in of_rows]
        make = given.progress
        self.progress = make(new_tokens, end_ids) if callable(make) else None
        callback, *names = check_callback(
            given.callback_on_step_end,
            given.callback_on_step_end_tensor_inputs,
            given.callback_on_step_end_tensor_outputs,
        )
        if callback is not None:
            self.callback = StepCallback(model, callback, *names)

    def hooks(self, on_step: Callable[[Step], None] | None = None) -> dict[str, Any]:
        """What goes into `dpad.decode.lane.Hooks`; what is not used is left out.

        `on_step`: another function of the step, which comes before the callback and the streamer.
        """
        hooks: dict[str, Any] = {"process_logits": self.process_logits, "on_step": on_step}
        if self.callback is not None or (self.streamer and self.streamer.takes_drafts):
            hooks["on_step"] = lambda step: self._step(step, on_step)
        if any((self.streamer, self.criteria, self.progress, self.rules)):
            hooks["on_block"] = self._block
        return hooks

    @contextlib.contextmanager
    def streaming(self) -> Iterator[None]:
        """A context in which the streamer has its prompt, and its end in any case; the bar too."""
        empty = contextlib.nullcontext()
        with self.streamer or empty, self.progress or empty:
            yield

    def _step(self, step: Step, before: Callable[[Step], None] | None) -> None:
        if before is not None:
            before(step)
        if self.callback is not None:
            self.callback(step, self.vocab)
        if self.streamer is not None and self.streamer.takes_drafts:
            self.streamer.step(step)

    def _block(self, q: Sequence, tokens: Tensor) -> bool:
        """True if a criterion ends the row before its last token."""
        row = q.number
        kept = self.criteria[row].block(tokens) if self.criteria is not None else None
        if kept is None and self.rules is not None:
            kept = self.rules[row].block(tokens)
        if self.streamer is not None:
            self.streamer.block(tokens[: kept and max(kept, 0)])
        cut = self.done[row] + (tokens.shape[0] if kept is None else kept)
        self.done[row] = cut
        if self.progress is not None:
            self.progress.block(row, tokens, kept is not None)
        if kept is None or cut == self.new_tokens[row]:
            return False
        self.cuts[row] = cut
        return True
