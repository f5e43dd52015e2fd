"""Answers in OpenAI's form, whole or in chunks."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

from dpad.engine import Draft
from dpad.serving.schema import StreamOptions
from dpad.serving.work import Answer, Work


class Form:
    """How completions or chat write an answer.

    Args:
        chat: which of the two.
        model: name that the answer carries.
        work: a `Work`.
    """

    def __init__(self, chat: bool, model: str, work: Work) -> None:
        self._chat, self._work = chat, work
        self._usage = False
        name, prefix = ("chat.completion", "chatcmpl") if chat else ("text_completion", "cmpl")
        self._object = name
        self._head = {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "created": work.created,
            "model": model,
            "system_fingerprint": None,
        }

    def whole(self, texts: list[str]) -> dict[str, Any]:
        """The answer as one JSON value."""
        choices = [
            {**self._text(text, "message"), "index": a.index, **self._end(a)}
            for a, text in zip(self._work.answers, texts, strict=True)
        ]
        head = {**self._head, "object": self._object, "choices": choices}
        return {**head, "usage": self._work.usage(), "dpad": self._work.details()}

    async def chunks(self, options: StreamOptions | None) -> AsyncIterator[bytes]:
        """The answer as server-sent events; `options`: a `StreamOptions` or None."""
        self._usage = options is not None and options.include_usage
        if self._chat:
            for answer in self._work.answers:
                yield self._chunk(answer, {"role": "assistant", "content": ""})
        async for answer, text, draft in self._work.pieces():
            if draft is not None:
                yield self._chunk(answer, "", dpad={"draft": _draft(answer, draft)})
            elif text:
                yield self._chunk(answer, text)
            if answer.end is not None:
                yield self._chunk(answer, {} if self._chat else "", **self._end(answer))
        if self._usage:
            last = {"choices": [], "usage": self._work.usage(), "dpad": self._work.details()}
            yield event({**self._chunk_head(), **last})
        yield b"data: [DONE]\n\n"

    def _chunk_head(self) -> dict[str, Any]:
        name = "chat.completion.chunk" if self._chat else self._object
        return {**self._head, "object": name, **({"usage": None} if self._usage else {})}

    def _chunk(
        self,
        answer: Answer,
        text: str | dict[str, str],
        finish_reason: str | None = None,
        **more: Any,
    ) -> bytes:
        choice = self._text(text, "delta") if isinstance(text, str) else {"delta": text}
        choice |= {"index": answer.index, "finish_reason": finish_reason, "logprobs": None, **more}
        return event({**self._chunk_head(), "choices": [choice]})

    def _text(self, text: str, name: str) -> dict[str, Any]:
        if not self._chat:
            return {"text": text}
        if name == "delta":
            return {"delta": {"content": text} if text else {}}
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    @staticmethod
    def _end(answer: Answer) -> dict[str, Any]:
        return {"finish_reason": answer.finish_reason, "logprobs": None}


def _draft(answer: Answer, draft: Draft) -> dict[str, Any]:
    """What the text after that of the finished blocks looks like now, and how sure that is."""
    ids = answer.ids(draft.tokens)
    return {
        "text": answer.text.peek(ids),
        "open": int(draft.open[: len(ids)].sum()),
        "confidence": [round(p, 4) for p in draft.confidence[: len(ids)].tolist()],
    }


def event(value: object) -> bytes:
    """A server-sent event of a JSON value."""
    return f"data: {json.dumps(value)}\n\n".encode()
