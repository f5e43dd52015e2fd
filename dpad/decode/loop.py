"""The batch call: every sequence is admitted as there is room, and steps are taken until all have
ended.
"""

import time
from collections import deque
from dataclasses import dataclass

from dpad.decode.decoder import Decoder
from dpad.decode.sequence import Sequence
from dpad.decode.workspace import Workspace
from dpad.models.adapter import Adapter


@dataclass
class Run:
    """What a batch call took: `seconds` (plan, forward, commit, total) of the host, `steps`,
    `passes`, `positions` (rows computed in them) and `replayed` passes.
    """

    seconds: dict[str, float]
    steps: int
    passes: int
    positions: int
    replayed: int


def decode(
    adapter: Adapter, workspace: Workspace, sequences: list[Sequence], together: int | None = None
) -> Run:
    """Decodes sequences to their ends; the results are theirs.

    Args:
        adapter: `dpad.models.adapter.Adapter`.
        workspace: `Workspace`; its buffers grow as needed.
        sequences: list of `Sequence`.
        together: how many are decoded at a time, at most; None: all.

    Returns:
        `Run`.

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
    seconds = {**decoder.seconds, "total": time.perf_counter() - begun}
    counted = (decoder.steps, decoder.passes, decoder.positions, decoder.replayed)
    return Run(seconds, *counted)
