"""A pass with its decision on dpad's operators, eager or as one CUDA graph."""

from benchmarks.gpu.models import BLOCK, FILL_ID, MASK_ID, prompt
from benchmarks.timing import captured
from dpad.decode.cache import KVArena
from dpad.decode.canvas import Canvas
from dpad.decode.commit import threshold
from dpad.decode.controls import Controller
from dpad.decode.lane import Sampling
from dpad.decode.plan import Planner, draw_suffix
from dpad.decode.sequence import Sequence
from dpad.decode.step import DeviceStep
from dpad.decode.suffix import Suffix


def sequence(row, tokens, rows):
    """A sequence before a pass of so many rows over its last block, all before it being given: a
    cached step of the block, a refresh of everything, or one that looks back to earlier blocks.
    """
    back = rows // BLOCK - 1 if rows < len(tokens) else None
    q = Sequence(
        tokens=tokens,
        prompt_length=len(tokens) - (BLOCK if back is None else rows),
        block_length=BLOCK,
        mask_id=MASK_ID,
        rule=threshold(0.9),
        suffix=Suffix("all"),
        cache="dual",
        look_back=back,
        sampling=Sampling(suppress=(MASK_ID,), exclude=(MASK_ID,)),
        fill_id=FILL_ID,
    )
    q.row, q.start, q.block = row, row * len(tokens), len(q.blocks) - 1
    q.enter()
    q.step = int(rows == BLOCK)
    return q


class Step:
    """Everything between two looks at the status.

    `keys` slots of each sequence, of which its last ones are computed: `rows` of each sequence, or
    a list of as many as there are sequences. Without an arena it makes one and fills it by a call.
    """

    def __init__(self, adapter, batch, keys, rows=BLOCK, arena=None):
        self.adapter, self.arena = adapter, arena or KVArena()
        self.arena.reserve(adapter, batch * keys)
        counts = [rows] * batch if isinstance(rows, int) else list(rows)
        self.start = prompt(batch, keys, adapter.device)
        self.start[:, -BLOCK:] = MASK_ID
        texts = self.start.cpu()
        live = [sequence(row, texts[row], count) for row, count in enumerate(counts)]
        draw_suffix(live)
        self._canvas = Canvas(batch, keys, adapter.device)
        self._canvas.load(live)
        lane = live[0].lane
        self._step = DeviceStep(adapter, self.arena, self._canvas, lane)
        self._layout = Planner(adapter.shift).layout(live).to(adapter.device)
        self._controls = Controller().of(lane, live).to(adapter.device)
        if arena is None:
            self()

    @property
    def canvas(self):
        """Tokens ``[batch, keys]``."""
        return self._canvas.tokens

    def logits(self):
        layers = self._step.layers(self._layout)
        layers.run()
        return self._step.logits(layers, self._layout, self._controls)

    def __call__(self):
        self.canvas.copy_(self.start)  # every call decides the same
        self._step(self._layout, self._controls)
        return self._canvas.status

    def graph(self):
        """The step as a function that replays one CUDA graph."""
        return captured(self, self.adapter.device)
