"""A pass with its decision on dpad's operators, eager or as one CUDA graph."""

from itertools import accumulate, pairwise

import torch

from benchmarks.gpu.models import BLOCK, FILL_ID, MASK_ID, prompt
from benchmarks.gpu.timing import captured
from dpad.decode.cache import KVArena
from dpad.decode.canvas import Canvas
from dpad.decode.commit import threshold
from dpad.decode.controls import Controls
from dpad.decode.lane import Sampling
from dpad.decode.layout import Layout
from dpad.decode.sequence import Sequence
from dpad.decode.step import DeviceStep
from dpad.decode.suffix import Suffix


class Step:
    """Everything between two looks at the status.

    `keys` slots of each sequence, of which its last ones are computed: `rows` of each sequence, or
    a list of as many as there are sequences. Without an arena it makes one and fills it by a call.
    """

    def __init__(self, adapter, batch, keys, rows=BLOCK, arena=None):
        self.adapter, self.arena = adapter, arena or KVArena()
        self.arena.reserve(adapter, batch * keys)
        device = adapter.device
        index = lambda values: torch.tensor(values, dtype=torch.int64)  # noqa: E731
        counts = [rows] * batch if isinstance(rows, int) else list(rows)
        if len(counts) != batch or not all(BLOCK <= n <= keys for n in counts):
            raise ValueError(f"rows = {rows}: expected {batch} counts of {BLOCK} to {keys}")
        offsets, sequence = [0, *accumulate(counts)], list(range(batch))
        slots = [slot for n in counts for slot in range(keys - n, keys)]
        layout = Layout(
            slot=index(slots),
            position=index(slots),
            q_offsets=index(offsets),
            n_keys=index([keys] * batch),
            logit_row=index([r for _, end in pairwise(offsets) for r in range(end - BLOCK, end)]),
            l_offsets=index([i * BLOCK for i in range(batch + 1)]),
            canvas_row=index(sequence),
            kv_start=index([row * keys for row in sequence]),
            hidden_until=None,
            target=index(list(range(keys - BLOCK, keys)) * batch),
            length=index([keys] * batch),
            max_position=keys - 1,
            sizes=tuple((n, row * keys, keys) for row, n in enumerate(counts)),
        )
        numbers = torch.ones(batch, dtype=torch.float64)
        rng = index([[1, row, 0] for row in sequence])
        controls = Controls(rng, 0 * numbers, 0.9 * numbers, index([BLOCK] * batch))
        self.start = prompt(batch, keys, device)
        self.start[:, -BLOCK:] = MASK_ID
        sequences = [self._sequence(row, tokens) for row, tokens in enumerate(self.start.cpu())]
        self._canvas = Canvas(batch, keys, device)
        self._canvas.load(sequences)
        self._step = DeviceStep(adapter, self.arena, self._canvas, sequences[0].lane)
        self.layout, self._controls = layout.to(device), controls.to(device)
        if arena is None:
            self()

    @property
    def canvas(self):
        """Tokens ``[batch, keys]``."""
        return self._canvas.tokens

    @staticmethod
    def _sequence(row, tokens):
        """All but the last block of its canvas is given."""
        q = Sequence(
            tokens=tokens,
            prompt_length=len(tokens) - BLOCK,
            block_length=BLOCK,
            mask_id=MASK_ID,
            rule=threshold(0.9),
            suffix=Suffix("all"),
            sampling=Sampling(suppress=(MASK_ID,), exclude=(MASK_ID,)),
            fill_id=FILL_ID,
        )
        q.row = row
        return q

    def logits(self):
        layers = self._step.layers(self.layout)
        layers.run()
        return self._step.logits(layers, self.layout, self._controls)

    def __call__(self):
        self.canvas.copy_(self.start)  # every call decides the same
        self._step(self.layout, self._controls)
        return self._canvas.status

    def graph(self):
        """The step as a function that replays one CUDA graph."""
        return captured(self, self.adapter.device)
