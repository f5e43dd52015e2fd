"""Turns with a model: history through the chat template, answers as they are decoded."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from dpad.engine import Draft, Engine, Request
    from dpad.generation.config import DPadGenerationConfig
    from dpad.serving.text import TextStream


@dataclass(frozen=True)
class Piece:
    """What an answer looks like now.

    `text`: text that has been finished since the piece before; `draft`: (text, firm) of what may
    follow it, token by token, firm where the token is committed.
    """

    text: str
    draft: tuple[tuple[str, bool], ...] = ()


class Conversation:
    """A model, and what was said.

    Args:
        model, tokenizer: as `dpad.loading.load` gives them.
        config: a `DPadGenerationConfig`.
        system: text of a system turn, or "".
        prefill: given start of every answer.
        raw: do not use the chat template: each answer stands on the one prompt alone.

    Attributes:
        turns: dicts of "role" and "content".
        figures: of the last answer, a dict.
    """

    def __init__(
        self,
        model: "nn.Module",
        tokenizer: "PreTrainedTokenizerBase",
        config: "DPadGenerationConfig",
        system: str = "",
        prefill: str = "",
        raw: bool = False,
    ) -> None:
        self._model, self._tokenizer, self._config = model, tokenizer, config
        self._system, self._prefill = system, prefill
        self._raw = raw or not getattr(tokenizer, "chat_template", None)
        if self._raw and system:
            raise ValueError("--system: without a chat template there is no place for it")
        self._engine: Engine | None = None
        self.figures: dict[str, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Forgets all turns but the system's."""
        self.turns = [{"role": "system", "content": self._system}] if self._system else []

    def close(self) -> None:
        """Frees what decoding holds."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def ask(self, prompt: str) -> Iterator[Piece]:
        """Yields a `Piece` for every step; the turn joins the history once the answer has ended.

        Raises ValueError for what the tokenizer or the model refuses: too long, for example.
        """
        from dpad.engine import Block, Draft
        from dpad.serving.text import TextStream

        request = self._submit(prompt)
        stream, answer = TextStream(self._tokenizer), self._prefill
        if self._prefill:
            yield Piece(self._prefill)
        try:
            for event in request:
                if isinstance(event, Draft):
                    yield Piece("", tuple(self._draft(stream, event, request.sequence.end_ids)))
                elif isinstance(event, Block):
                    text = stream.push(_until(event.tokens.tolist(), request.sequence.end_ids))
                    answer += text
                    yield Piece(text)
                else:
                    ended = event
            output = request.result()
        finally:
            request.cancel()  # an answer that is interrupted
        rest = stream.end()
        yield Piece(rest)
        self.turns.append({"role": "user", "content": prompt})
        self.turns.append({"role": "assistant", "content": answer + rest})
        self.figures = {
            "tokens": ended.usage.completion_tokens,
            "forwards": ended.usage.forwards,
            "seconds": ended.timings.total,
            "finish_reason": ended.reason,
            "seed": output.seed,
        }

    def _submit(self, prompt: str) -> "Request":
        from dpad.prompting import encode_chat, encode_text

        turn = {"role": "user", "content": prompt}
        if self._raw:
            ids = encode_text(self._tokenizer, prompt + self._prefill)
        else:
            start = [{"role": "assistant", "content": self._prefill}]
            ids = encode_chat(self._tokenizer, [*self.turns, turn, *start])
        engine = self._engine_for(len(ids))
        return engine.submit(ids, generation_config=self._config, stream="drafts")

    def _engine_for(self, length: int) -> "Engine":
        """An engine with room for a prompt of this length; room grows by powers of two."""
        import dpad
        from dpad.generation.api import merge

        canvas = merge(self._model, None, self._config, {}).max_new_tokens
        slots = 1 << (2 * (length + canvas) - 1).bit_length()  # twice: guidance has two streams
        if self._engine is None or self._engine.max_tokens < slots:
            self.close()
            engine = dpad.Engine(self._model, max_sequences=1, max_tokens=slots)
            self._engine = engine.start()  # a thread of its own: an interrupt ends one answer only
        return self._engine

    def _draft(
        self, stream: "TextStream", draft: "Draft", end_ids: Collection[int]
    ) -> Iterator[tuple[str, bool]]:
        """(text, firm) of each token of a draft that shows, up to a committed end id."""
        shown = stream.copy()
        for token, is_open in zip(draft.tokens.tolist(), draft.open.tolist(), strict=True):
            if token in end_ids and not is_open:
                return
            text = "" if token in end_ids else shown.push([token])
            if text:
                yield text, not is_open


def _until(tokens: list[int], end_ids: Collection[int]) -> list[int]:
    return tokens[: next((i for i, token in enumerate(tokens) if token in end_ids), None)]
