"""Whoever waits for a call is told of its end, on every way out of it."""

from contextlib import contextmanager, suppress


class _Once:
    """A streamer whose `end` reaches the one inside once; everything else is that one's."""

    def __init__(self, streamer):
        self._streamer, self._ended = streamer, False

    def __getattr__(self, name):
        return getattr(self._streamer, name)

    def end(self):
        if not self._ended:
            self._ended = True
            self._streamer.end()


@contextmanager
def released(streamer):
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
