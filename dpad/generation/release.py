"""Whoever waits for a call is told of its end, on every way out of it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class _Once:
    """A streamer whose `end` reaches the one inside once; everything else is that one's."""

    def __init__(self, streamer: Any) -> None:
        self._streamer, self._ended = streamer, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._streamer, name)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._streamer.end()


@contextmanager
def released(streamer: Any) -> Iterator[Any]:
    """The streamer (or None) for the time of one call; ended, if the call raises, whatever it was.

    A refused argument, a `put` of its own that raises and an interrupt come before or beside what
    the decoder does with it: without this a `TextIteratorStreamer` would be waited on for ever.
    """
    if not callable(getattr(streamer, "end", None)):
        yield streamer  # none, or none that could be told
        return
    once = _Once(streamer)
    try:
        yield once
    except BaseException:
        with suppress(Exception):
            once.end()
        raise
