"""The step callback, by Diffusers' convention: an allow-list in, an allow-list out."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dpad.decode.step import Step
from dpad.generation.processing import plain_mode
from dpad.values import refuse

TENSORS = ("block", "confidence", "transfer_index", "kept_suffix")
WRITABLE = ("block",)
# A callback that puts masks back forever would keep the loop from ending.
STEPS_PER_TOKEN = 8


def _allowed(option: str, names: Any, allowed: tuple[str, ...]) -> tuple[str, ...]:
    if names is not None and not isinstance(names, (str, list, tuple)):
        refuse(option, names, f"some of {', '.join(allowed)}")
    names = (names,) if isinstance(names, str) else tuple(names or ())
    for name in names:
        if name not in allowed:
            raise ValueError(f"{option} holds {name!r}: expected some of {', '.join(allowed)}")
    return names


def check_callback(
    callback: Callable[..., Any] | None,
    inputs: Collection[str] | None,
    outputs: Collection[str] | None,
) -> tuple[Callable[..., Any] | None, tuple[str, ...], tuple[str, ...]]:
    """(callback, names it is given, names it may change), checked.

    Raises:
        TypeError: the callback is not callable.
        ValueError: a name that is not allowed, or names without a callback.
    """
    option = "callback_on_step_end"
    inputs = _allowed(f"{option}_tensor_inputs", inputs, TENSORS)
    outputs = _allowed(f"{option}_tensor_outputs", outputs, WRITABLE)
    if callback is None:
        if inputs or outputs:
            raise ValueError(f"{option}_tensor_inputs or _outputs is given without {option}")
        return None, (), ()
    if not callable(callback):
        raise TypeError(f"{option} is a {type(callback).__name__}: expected a callable")
    return callback, inputs or ("block",), outputs


class StepCallback:
    """Calls ``callback(model, step, timestep, tensors)`` after each step.

    `step` counts the steps of the call from 0, `timestep` lists for each row in the step how many
    it had taken in its block before. `tensors` holds ``row`` (int64 ``[rows]``, numbers in the
    batch) and, of those asked for, copies of

    * ``block``: int64 ``[rows, block]``, the block's tokens, the mask id where open, -1 behind it,
    * ``confidence``: float64 ``[rows, block]``, probability of what the model predicts there,
    * ``transfer_index``: bool ``[rows, block]``, what this step committed,
    * ``kept_suffix``: int64 ``[rows, kept]``, positions counted from the row's first token that is
      not padding, -1 behind the last.

    It returns None, or a dict: a tensor it may change replaces the original, the others have to be
    as they were given. Positions of ``block`` that get the mask id are decided again.
    """

    def __init__(
        self,
        model: nn.Module,
        callback: Callable[..., Any],
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
    ) -> None:
        self.model, self.callback = model, callback
        self.inputs, self.outputs = inputs, outputs
        self.number = 0

    def __call__(self, step: Step, vocab: int) -> None:
        with plain_mode():
            tensors = {"row": torch.tensor([q.number for q in step.live], device="cpu")}
            tensors |= {name: getattr(self, f"_{name}")(step) for name in self.inputs}
            given = {name: value.clone() for name, value in tensors.items()}
            timestep = [q.step for q in step.live]
            answer = self.callback(self.model, self.number, timestep, given)
            self.number += 1
            changed = self._checked(answer, tensors, step, vocab)
        if changed is not None:
            rows, position = self._at(step)
            step.canvas.tokens[rows, position] = changed.to(position.device)
            step.settle()

    @staticmethod
    def _at(step: Step) -> tuple[Tensor, Tensor]:
        return step.targets.places()

    @staticmethod
    def _padded(step: Step, values: Tensor, padding: float) -> Tensor:
        sizes = [e - s for s, e in (q.targets for q in step.live)]
        return pad_sequence(values.split(sizes), True, padding)

    def _block(self, step: Step) -> Tensor:
        return self._padded(step, step.canvas.tokens[self._at(step)], -1)

    def _confidence(self, step: Step) -> Tensor:
        return self._padded(step, step.probability.clone(), 0.0)

    def _transfer_index(self, step: Step) -> Tensor:
        rows, position = self._at(step)
        now = step.canvas.forward[rows] - 1
        return self._padded(step, step.canvas.committed_at[rows, position] == now, False)

    def _kept_suffix(self, step: Step) -> Tensor:
        kept = [q.kept for q in step.live if q.kept is not None]  # each has drawn its own
        return pad_sequence(kept, True, -1)

    def _checked(
        self, answer: Any, tensors: dict[str, Tensor], step: Step, vocab: int
    ) -> Tensor | None:
        """The block's new tokens ``[logit_rows]``, or None where nothing is to change."""
        if answer is None:
            return None
        if not isinstance(answer, dict):
            raise TypeError(
                f"the step callback returned a {type(answer).__name__}: expected a dict"
            )
        for name, value in answer.items():
            if name not in tensors:
                raise ValueError(f"the step callback returned {name!r}, which it was not given")
            old = tensors[name]
            if not isinstance(value, torch.Tensor) or value.shape != old.shape:
                got = list(value.shape) if isinstance(value, torch.Tensor) else repr(value)
                raise ValueError(
                    f"the step callback returned {name} = {got}: expected a tensor "
                    f"{list(old.shape)}"
                )
            if name not in self.outputs and not _same(value, old):
                raise ValueError(
                    f"the step callback changed {name!r}: it may change "
                    f"{', '.join(self.outputs) or 'nothing'} (callback_on_step_end_tensor_outputs)"
                )
        if "block" not in answer or "block" not in self.outputs:
            return None
        return self._new_block(answer["block"], tensors["block"], step, vocab)

    @staticmethod
    def _new_block(block: Tensor, old: Tensor, step: Step, vocab: int) -> Tensor | None:
        block = block.to(old.device)
        if torch.equal(block, old):
            return None
        if block.dtype != torch.int64:
            raise ValueError(f"the step callback returned block of {block.dtype}: expected int64")
        sizes = [e - s for s, e in (q.targets for q in step.live)]
        changed = torch.cat([row[:n] for row, n in zip(block, sizes, strict=True)])
        bad = (changed < 0) | (changed >= vocab)
        if bad.any():
            raise ValueError(
                f"the step callback wrote id {int(changed[bad][0])}: the vocabulary has {vocab} ids"
            )
        for q, n in zip(step.live, sizes, strict=True):
            if q.step >= STEPS_PER_TOKEN * n:
                raise RuntimeError(
                    f"row {q.number}, block {q.block}: the step callback has kept a block of "
                    f"{n} tokens from ending for {q.step} steps"
                )
        return changed


def _same(value: Tensor, old: Tensor) -> bool:
    return torch.allclose(
        value.to(old).to(torch.float64), old.to(torch.float64), 0, 0, equal_nan=True
    )
