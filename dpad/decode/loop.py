"""The batch call: every sequence is admitted as there is room, and steps are taken until all have
ended.
"""

import time
from collections import deque

from dpad.decode.decoder import Decoder
from dpad.decode.sequence import Sequence
from dpad.decode.stats import Stats
from dpad.decode.workspace import Workspace
from dpad.models.adapter import Adapter


def decode(
    adapter: Adapter, workspace: Workspace, sequences: list[Sequence], together: int | None = None
) -> Stats:
    """Decodes sequences to their ends; the results are theirs.

    Args:
        adapter: `dpad.models.adapter.Adapter`.
        workspace: `Workspace`; its buffers grow as needed.
        sequences: list of `Sequence`.
        together: how many are decoded at a time, at most; None: all.

    Returns:
        `Stats`, with the "total" among its seconds.

    Raises:
        MemoryError: the K/V arena does not fit.
        NaNLogitsError: at the first status read after NaN logits.
        What a hook raises, and whatever else ends a sequence; the others are abandoned.
    """
    begun, together = time.perf_counter(), min(together or len(sequences), len(sequences))
    longest = sorted((q.slots for q in sequences), reverse=True)[:together]
    width = max(q.capacity for q in sequences)
    workspace.reserve(adapter, together, width, sum(longest))
    decoder, waiting = Decoder(adapter, workspace), deque(sequences)
    try:
        with decoder.stepping():
            while waiting or decoder.live:
                while waiting and len(decoder.live) < together and decoder.admit(waiting[0]):
                    waiting.popleft()
                for q in decoder.step():
                    if q.error is not None:
                        raise q.error
    finally:
        decoder.close()
    decoder.stats.seconds["total"] = time.perf_counter() - begun
    return decoder.stats
