"""Two ways to solve the same problems side by side in one thread, each on its own clock.

`Ordinary` is the unpatched model in the usual loop; `Solver` is dpad. Nothing here prints.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from dpad.demo.task import END_ID, MASK_ID, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from dpad.generation.output import DPadOutput

BLOCK = 32


class OrdinaryDecoder:
    """The model's own forward over the whole canvas in every step, one token per row and step.

    The semi-autoregressive loop that LLaDA was published with (arXiv 2502.09992, algorithm 5):
    blocks from left to right, the most probable masked token of the block is committed.

    Args:
        model: gives ``.logits`` for a canvas; used as it is.
        prompts: lists of token ids of one length.
        canvas: number of generated tokens.
    """

    def __init__(self, model: nn.Module, prompts: Sequence[list[int]], canvas: int) -> None:
        self.model, self.prompt_length = model, len(prompts[0])
        masks = torch.full((len(prompts), canvas), MASK_ID)
        self.tokens = torch.cat((torch.tensor(prompts), masks), dim=1)
        self.canvas, self.steps, self.seconds = canvas, 0, 0.0

    @property
    def finished(self) -> bool:
        return self.steps == self.canvas

    @property
    def answers(self) -> Tensor:
        """int64 ``[rows, canvas]``, masks where nothing was committed yet."""
        return self.tokens[:, self.prompt_length :]

    @property
    def positions(self) -> int:
        """Positions computed so far, per row."""
        return self.steps * self.tokens.shape[1]

    def step(self) -> None:
        """One forward, one token in every row."""
        begun = time.perf_counter()
        start = self.prompt_length + self.steps // BLOCK * BLOCK
        block = self.tokens[:, start : start + BLOCK]
        with torch.inference_mode():
            logits = self.model(self.tokens).logits[:, start : start + BLOCK].double()
            probability = logits.softmax(-1)
            logits[..., MASK_ID] = -torch.inf
            token = logits.argmax(-1, keepdim=True)
            score = probability.gather(-1, token)[..., 0]
            best = score.masked_fill(block != MASK_ID, -1.0).argmax(-1, keepdim=True)
            block.scatter_(1, best, token[..., 0].gather(1, best))
        self.steps += 1
        self.seconds += time.perf_counter() - begun


def answered(problem: Problem, answer: Tensor) -> bool | None:
    """True or False once an answer (int64 ``[canvas]``) is complete to its end, else None."""
    ends = (answer == END_ID).nonzero()[:, 0]
    text = answer[: int(ends[0]) + 1] if ends.numel() else answer
    return None if bool((text == MASK_ID).any()) else problem.check(text)


class Ordinary:
    """Solves problem after problem by `OrdinaryDecoder`, a step at a time."""

    def __init__(self, model: nn.Module, problems: Sequence[Problem], canvas: int) -> None:
        self.model, self.canvas = model, canvas
        self._problems = itertools.cycle(problems)
        self.solved, self.right, self._spent = 0, 0, 0.0
        self._next()
        self.first = self.decoder

    def _next(self) -> None:
        self.problem = next(self._problems)
        self.decoder = OrdinaryDecoder(self.model, [self.problem.prompt_ids], self.canvas)

    @property
    def seconds(self) -> float:
        """Time spent on all problems."""
        return self._spent + self.decoder.seconds

    def step(self) -> None:
        """One forward; goes on with the next problem where one is done."""
        if self.decoder.finished:
            self._spent += self.decoder.seconds
            self._next()
        self.decoder.step()
        if self.decoder.finished:
            self.solved += 1
            self.right += bool(answered(self.problem, self.decoder.answers[0]))


class Solver:
    """Solves problem after problem with a patched model."""

    problem: Problem
    output: "DPadOutput"

    def __init__(
        self, model: nn.Module, problems: Sequence[Problem], canvas: int, options: dict[str, Any]
    ) -> None:
        self.model, self.canvas, self.options = model, canvas, options
        self._problems = itertools.cycle(problems)
        self.solved, self.right, self.seconds = 0, 0, 0.0
        self.first_seconds = 0.0

    def solve(self) -> None:
        """Solves the next problem; `problem` and `output` (a `DPadOutput`) are the latest ones."""
        self.problem = next(self._problems)
        self.output, seconds = run(self.model, self.problem, self.canvas, self.options)
        self.seconds += seconds
        self.first_seconds = self.first_seconds or seconds
        self.solved += 1
        self.right += self.problem.check(self.output.sequences[0, len(self.problem.prompt_ids) :])


def run(
    model: nn.Module, problem: Problem, canvas: int, options: dict[str, Any]
) -> tuple["DPadOutput", float]:
    """(`DPadOutput`, seconds) of one problem on a patched model."""
    begun = time.perf_counter()
    generate = cast("Callable[..., DPadOutput]", model.generate)
    output = generate(
        [problem.prompt_ids],
        max_new_tokens=canvas,
        block_length=BLOCK,
        return_dict_in_generate=True,
        **options,
    )
    return output, time.perf_counter() - begun


def race(ordinary: Ordinary, solver: Solver, seconds: float) -> Iterator[None]:
    """Lets both sides take turns for `seconds` of wall time; yields after every turn.

    Both clocks (time spent computing) are kept equal: dpad solves its next problem whenever it has
    used less time than the ordinary decoder. Each side has at least one turn.
    """
    stop = time.perf_counter() + seconds
    solver.solve()
    yield
    while True:
        ordinary.step()
        yield
        while solver.seconds <= ordinary.seconds:
            if time.perf_counter() >= stop:
                return
            solver.solve()
            yield
        if time.perf_counter() >= stop:
            return
