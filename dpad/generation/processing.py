"""Transformers' logits processors and stopping criteria, applied to a canvas.

Both see one row at a time, without padding, and know nothing of masks: the canvas is shown to them
as the text that a left-to-right model would have had.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dpad.decode.canvas import Canvas
from dpad.decode.layout import Targets
from dpad.decode.sequence import Sequence
from dpad.values import shown

# Processors that look at the vocabulary only: applied to all positions at once.
VOCABULARY_ONLY = (
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
    "MinPLogitsWarper",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopHLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
)
_GUIDANCE = "it runs the model or splits the batch itself; pass cfg_scale="
_NEIGHBOUR = "it needs the final left neighbour of a token, which is decided in any order"
_FORMAT = "it is made for another model's token format"
REFUSED = {
    "AlternatingCodebooksLogitsProcessor": _FORMAT,
    "BarkEosPrioritizerLogitsProcessor": _FORMAT,
    "ClassifierFreeGuidanceLogitsProcessor": _GUIDANCE,
    "DiaClassifierFreeGuidanceLogitsProcessor": _GUIDANCE,
    "DiaEOSChannelFilterLogitsProcessor": _FORMAT,
    "DiaEOSDelayPatternLogitsProcessor": _FORMAT,
    "SynthIDTextWatermarkLogitsProcessor": _NEIGHBOUR,
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": _GUIDANCE,
    "WatermarkLogitsProcessor": _NEIGHBOUR,
    "WhisperNoSpeechDetection": _FORMAT,
    "WhisperTimeStampLogitsProcessor": _FORMAT,
}
# Processors that are told which row of the batch they see by its place in the batch.
BATCH_ONE = (
    "EncoderNoRepeatNGramLogitsProcessor",
    "EncoderRepetitionPenaltyLogitsProcessor",
    "PrefixConstrainedLogitsProcessor",
)


@contextmanager
def plain_mode() -> Iterator[None]:
    """For callers' code: tensors made here are ordinary ones, and nothing is differentiated."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _names(thing: object) -> set[str]:
    return {c.__name__ for c in type(thing).__mro__}


def _checked(name: str, given: Any) -> list[Callable[..., Any]]:
    """The entries of a list of callables; None is empty."""
    if given is None:
        return []
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{name} is a {type(given).__name__}: expected a list of callables")
    for place, entry in enumerate(given):
        if not callable(entry):
            raise TypeError(f"{name}[{place}] is a {type(entry).__name__}: expected a callable")
    return list(given)


def _more_arguments(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments behind the second that a caller has to give."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return []
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        p.name
        for p in parameters[2:]
        if p.default is inspect.Parameter.empty and p.kind not in kinds
    ]


def check_processors(given: Any, rows: int) -> list[Callable[..., Any]]:
    """The processors as a list.

    Raises:
        TypeError: not a list of callables.
        ValueError: a processor that cannot work here, by name, with the reason.
    """
    processors = _checked("logits_processor", given)
    for place, processor in enumerate(processors):
        what = f"logits_processor[{place}] = {type(processor).__name__}"
        for name in sorted(_names(processor) & set(REFUSED)):
            raise ValueError(f"{what} is refused: {REFUSED[name]}")
        if rows > 1 and _names(processor) & set(BATCH_ONE):
            raise ValueError(f"{what} tells rows apart by their place: one row, not {rows}")
        more = _more_arguments(processor)
        if more:
            raise ValueError(
                f"{what} needs {', '.join(more)} besides input_ids and scores, which dpad does not "
                "have"
            )
    return processors


class Processors:
    """Runs processors on the logits of a pass.

    A processor gets ``input_ids`` int64 ``[1, i]``, the row's tokens before canvas position i
    (prompt, finished text, and the mask id where the block is still open), and ``scores`` float32
    ``[1, vocab]``, the logits of position i. It runs for each open position of each row, after
    guidance and before temperature and the commit rule. Those of `VOCABULARY_ONLY` get all
    positions of a block at once. The result is rounded to the logits' dtype.
    """

    def __init__(self, processors: list[Callable[..., Any]]) -> None:
        self.processors = processors
        self.at_once = [type(p).__name__ in VOCABULARY_ONLY for p in processors]

    def __call__(
        self, live: Iterable[Sequence], targets: Targets, logits: Tensor, canvas: Canvas
    ) -> Tensor:
        with plain_mode():
            scores = logits.to(torch.float32, copy=True)
            parts = scores.split([q.width for q in live])
            for q, part in zip(live, parts, strict=True):
                begin, end = q.targets
                self._run(canvas.tokens[q.row, :end].clone()[None], begin, part, q.mask_id)
            return scores.to(logits.dtype)

    def _run(self, tokens: Tensor, begin: int, scores: Tensor, mask_id: int) -> None:
        """`tokens` ``[1, end]``, `scores` ``[end - begin, vocab]``, written in place."""
        free = (tokens[0, begin:] == mask_id).nonzero()[:, 0].tolist()
        for processor, at_once in zip(self.processors, self.at_once, strict=True):
            if at_once:
                ids = tokens[:, :begin].expand(scores.shape[0], -1)
                scores.copy_(self._one(processor, ids, scores))
                continue
            for i in free:
                ids, row = tokens[:, : begin + i], scores[i : i + 1]
                row.copy_(self._one(processor, ids, row))

    @staticmethod
    def _one(processor: Callable[..., Any], ids: Tensor, scores: Tensor) -> Tensor:
        out = processor(ids, scores)
        if not isinstance(out, torch.Tensor) or out.shape != scores.shape:
            got = list(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            raise ValueError(
                f"{type(processor).__name__} returned {got}: expected scores {list(scores.shape)}"
            )
        return out


def check_criteria(given: Any, rows: int) -> list[list[Callable[..., Any]]]:
    """The criteria of each row, `rows` lists; a list of lists holds them already.

    Raises:
        TypeError: not a list of callables, nor a list of such lists.
        ValueError: a criterion that reads the scores, by name, or lists for another count of rows.
    """
    if per_row(given):
        if len(given) != rows:
            raise ValueError(f"stopping_criteria holds {len(given)} lists for {rows} rows")
        return [_criteria(f"stopping_criteria[{row}]", of_row) for row, of_row in enumerate(given)]
    return [_criteria("stopping_criteria", given)] * rows


def per_row(criteria: Any) -> bool:
    """Whether stopping criteria are given as one list per row."""
    lists = isinstance(criteria, (list, tuple)) and len(criteria) > 0
    return lists and all(isinstance(c, (list, tuple)) and not callable(c) for c in criteria)


def _criteria(name: str, given: Any) -> list[Callable[..., Any]]:
    criteria = _checked(name, given)
    for place, criterion in enumerate(criteria):
        if "ConfidenceCriteria" in _names(criterion):
            raise ValueError(
                f"{name}[{place}] = {type(criterion).__name__} is refused: it reads the "
                "scores of a left-to-right step"
            )
    return criteria


class Criteria:
    """Asks the criteria about each finished block, token by token.

    A criterion gets ``input_ids`` int64 ``[1, i]``, prompt and answer up to each token of the
    block in turn, and ``scores`` None. The text ends with the first token at which one is true, as
    in a left-to-right model; a `MaxTimeCriteria` is asked once per block and keeps the whole of it.
    What stands behind an end id is not asked about.
    """

    def __init__(
        self, criteria: list[Callable[..., Any]], prompt: Tensor, end_ids: Iterable[int]
    ) -> None:
        by_time = ["MaxTimeCriteria" in _names(c) for c in criteria]
        self.per_token = [c for c, t in zip(criteria, by_time, strict=True) if not t]
        self.per_block = [c for c, t in zip(criteria, by_time, strict=True) if t]
        self.text, self.end_ids = prompt, set(end_ids)
        self.ended = False

    def block(self, tokens: Tensor) -> int | None:
        """Number of the block's tokens that stay, or None if nothing stops."""
        before = self.text.shape[0]
        with plain_mode():
            self.text = torch.cat((self.text.to(tokens.device), tokens.clone()))
            for count, token in enumerate(tokens.tolist(), 1):
                self.ended = self.ended or token in self.end_ids
                if self.ended:
                    return None
                if self._any(self.per_token, before + count):
                    return count
            return tokens.shape[0] if self._any(self.per_block, self.text.shape[0]) else None

    def _any(self, criteria: list[Callable[..., Any]], length: int) -> bool:
        ids = self.text[None, :length]
        return any(self._holds(c, ids) for c in criteria)

    @staticmethod
    def _holds(criterion: Callable[..., Any], ids: Tensor) -> bool:
        answer = criterion(ids, None)
        try:
            found = torch.as_tensor(answer)
        except (TypeError, ValueError, RuntimeError):
            found = torch.empty(0)
        if found.numel() != 1:
            raise ValueError(
                f"{type(criterion).__name__} returned {shown(answer)}: expected True or False"
            )
        return bool(found.all())
