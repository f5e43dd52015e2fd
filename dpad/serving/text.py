"""Text of tokens that come one after the other: whole characters, and up to a stop string."""

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
PENDING = 3  # bytes of a character that may have come without its last one


class TextStream:
    """Tokens in, text out, append-only.

    A character appears when all of its bytes are there. What may become a stop string is held back
    until it is one, when the text ends before it, or cannot be one any more.

    Args:
        tokenizer: decodes ids; special tokens are left out.
        stops: strings that end the text and are no part of it.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stops: Iterable[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._ids: list[int] = []  # the last tokens
        self._shown = 0  # how much of their text is out
        self._held = ""  # text that may begin a stop string
        self.stopped = False

    def push(self, ids: Iterable[int]) -> str:
        """The text that is certain after these further ids."""
        return "".join(self._one(token) for token in ids if not self.stopped)

    def end(self) -> str:
        """What was held back, after the last token."""
        if self.stopped:
            return ""
        text = self._until_stop(self._decode()[self._shown :])
        return text if self.stopped else text + self._held

    def peek(self, ids: Iterable[int]) -> str:
        """What `push` would give for these ids; nothing changes."""
        return self.copy().push(ids)

    def copy(self) -> Self:
        """One that goes on by itself; nothing here is changed in place."""
        return copy.copy(self)

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special_tokens=True)

    def _one(self, token: int) -> str:
        self._ids = [*self._ids, token]
        text = self._decode()
        open_end = len(text) - len(text.rstrip(UNKNOWN))
        certain = len(text) - min(open_end, PENDING)
        new = text[self._shown : certain]
        # Later tokens need these few: how a token is written depends on those before it.
        self._ids = self._ids[-PENDING - 1 :]
        self._shown = max(self._shown, certain) - len(text) + len(self._decode())
        return self._until_stop(new)

    def _until_stop(self, new: str) -> str:
        text = self._held + new
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        cut = len(text) - self._partial(text)
        self._held = text[cut:]
        return text[:cut]

    def _partial(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


class StopCriterion:
    """A stopping criterion: true at the token that completes a stop string."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stops: Iterable[str]) -> None:
        self._text = TextStream(tokenizer, stops)

    def __call__(self, ids: "torch.Tensor", _: object) -> bool:
        self._text.push([int(ids[0, -1])])
        return self._text.stopped
