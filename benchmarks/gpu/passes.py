"""A pass with its decision on dpad's operators, eager or as one CUDA graph."""

from itertools import accumulate
from types import SimpleNamespace

import torch

from benchmarks.gpu.models import BLOCK, FILL_ID, MASK_ID, prompt
from benchmarks.gpu.timing import captured
from dpad import ops
from dpad.decode.forward import logits_of_pass


class Step:
    """Everything between two looks at the status.

    One sequence per cache row, `keys` slots each, of which its last ones are computed: `rows` of
    each sequence, or a list of as many as there are sequences.
    """

    def __init__(self, adapter, cache, batch, keys, rows):
        self.adapter, self.cache = adapter, cache
        device = adapter.device
        index = lambda values: torch.tensor(values, dtype=torch.int64, device=device)  # noqa: E731
        counts = [rows] * batch if isinstance(rows, int) else list(rows)
        if len(counts) != batch or not all(BLOCK <= n <= keys for n in counts):
            raise ValueError(f"rows = {rows}: expected {batch} counts of {BLOCK} to {keys}")
        offsets = [0, *accumulate(counts)]
        slots = [slot for n in counts for slot in range(keys - n, keys)]
        sequence, block = list(range(batch)), list(range(keys - BLOCK, keys))
        self.layout = SimpleNamespace(
            slot=index(slots),
            position=index(slots),
            q_offsets=index(offsets),
            n_keys=index([keys] * batch),
            logit_row=index([r for end in offsets[1:] for r in range(end - BLOCK, end)]),
            l_offsets=index([i * BLOCK for i in range(batch + 1)]),
            canvas_row=index(sequence),
            cache_row=index(sequence),
            max_position=keys - 1,
        )
        self.target, self.length = index(block * batch), index([keys] * batch)
        self.start = prompt(batch, keys, device)
        self.start[:, -BLOCK:] = MASK_ID
        self.canvas = self.start.clone()
        self.committed_at = torch.full_like(self.canvas, -1)
        self.committed = torch.zeros(batch, keys, dtype=torch.float64, device=device)
        self.masks_left, self.status, self.forward = (index([0] * batch) for _ in range(3))
        self.rng = index([[1, b, 0] for b in sequence])
        self.temperature = torch.zeros(batch, dtype=torch.float64, device=device)
        self.amount = torch.full((batch,), 0.9, dtype=torch.float64, device=device)
        self.quota, self.ids, self.none = index([BLOCK] * batch), index([MASK_ID]), index([])

    def logits(self):
        layout = self.layout
        tokens = ops.suffix_gather(
            self.canvas, layout.canvas_row, layout.q_offsets, layout.position, None, MASK_ID
        )
        return logits_of_pass(self.adapter, tokens, layout, self.cache)

    def __call__(self):
        self.canvas.copy_(self.start)  # every call decides the same
        scores = ops.confidence(
            self.logits(),
            self.layout.l_offsets,
            self.target,
            self.rng,
            self.temperature,
            self.ids,
            self.ids,
        )
        state = (self.canvas, self.committed_at, self.committed)
        counters = (self.masks_left, self.status, self.forward)
        rows = (self.layout.canvas_row, self.layout.l_offsets, self.target)
        chosen = (scores[0], scores[1], scores[1], self.amount, self.quota, self.length, self.none)
        rule = (ops.RULES["threshold"], True, MASK_ID, FILL_ID)
        ops.unmask_(*state, *counters, *rows, *chosen, *rule)
        return self.status

    def graph(self):
        """The step as a function that replays one CUDA graph."""
        return captured(self, self.adapter.device)
