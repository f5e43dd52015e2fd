"""Cached steps as graphs: captured once per bucket, then replayed with new inputs.

A graph runs the same kernels on the same addresses, whatever they hold. So a step is captured on
inputs, canvas and K/V cache that stay where they are, for a *bucket*: a number of sequences, rows
and logit rows that a pass is padded to. Padding belongs to sequences of its own, behind the live
ones: rows of slot -1 (computed, never written) that look at one slot, and spare rows of the canvas.
Everything that changes from step to step is on the device; the host copies it there in one piece.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from dpad import ops
from dpad.decode.packed import Packed
from dpad.decode.plan import Layout, Targets, tensors_of
from dpad.decode.step import OUTSIDE, Controls, Decision
from dpad.models import linear_layers

MOST_GRAPHS = 32  # of one workspace; the one that was not used for longest goes first


class CudaGraph:
    """The work that `function` queues on the current device, recorded; `replay` queues it again."""

    def __init__(self, function, pool):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries allocate what they need in the first calls
            for _ in range(2):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        options = {"pool": pool, "stream": stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, **options):
            function()
        self.replay = graph.replay

    @staticmethod
    def pool():
        """Memory that graphs which never run at the same time share."""
        return torch.cuda.graph_pool_handle()


CAPTURES = {"cuda": CudaGraph}  # by type of device
OPERATORS = (  # of a step
    "suffix_gather",
    "rope_kv_write_",
    "block_attention",
    "add_rms_norm_",
    "swiglu",
    "confidence",
    "uniform",
    "unmask_",
)


@dataclass(frozen=True)
class Bucket:
    """What a pass is padded to, each count for one of its streams."""

    sequences: int
    rows: int
    logit_rows: int
    streams: int

    @classmethod
    def of(cls, layout):
        """The bucket of a pass of cached steps.

        Sequences go up to the next power of two, and each of those has room for a whole block. One
        more sequence takes the padding where there is some and no other does. Rows beside those of
        the blocks (predecessors, the kept suffix) go up in steps of at most a quarter.
        """
        batch, streams = layout.length.shape[0], layout.streams
        blocks, rows = layout.target.shape[0], layout.rows // streams
        sequences = power_of_two(batch)
        start, end = layout.live[0].blocks[0]  # the first is the longest
        logit_rows = sequences * (end - start)
        more = rows - blocks
        if more > sequences:
            step = max(16, power_of_two(more) // 8)
            more = -(-more // step) * step
        elif more:
            more = sequences
        exact = (batch, blocks, rows) == (sequences, logit_rows, logit_rows + more)
        padding = int(not exact and batch == sequences)
        return cls(sequences + padding, logit_rows + more, logit_rows, streams)


def power_of_two(n):
    """The smallest one that is not below n >= 1."""
    return 1 << (n - 1).bit_length()


class Inputs:
    """The inputs of a captured step: a layout and controls at fixed addresses on the device."""

    def __init__(self, bucket, canvas, names, device):
        sequences, all_sequences = bucket.sequences, bucket.sequences * bucket.streams
        all_rows, all_logits = bucket.rows * bucket.streams, bucket.logit_rows * bucket.streams
        long, double = torch.int64, torch.float64
        shapes = {
            "slot": ((all_rows,), long),
            "position": ((all_rows,), long),
            "q_offsets": ((all_sequences + 1,), long),
            "n_keys": ((all_sequences,), long),
            "logit_row": ((all_logits,), long),
            "l_offsets": ((all_sequences + 1,), long),
            "canvas_row": ((all_sequences,), long),
            "cache_row": ((all_sequences,), long),
            "hidden_until": ((all_sequences,), long),
            "target": ((bucket.logit_rows,), long),
            "length": ((sequences,), long),
            "rng": ((sequences, 3), long),
            "temperature": ((sequences,), double),
            "amount": ((sequences,), double),
            "quota": ((sequences,), long),
            "leave": ((sequences,), long),
        }
        self.bucket, self.spare = bucket, torch.arange(canvas.rows, canvas.rows + canvas.spare)
        packed = Packed({name: shapes[name] for name in shapes if name in names})
        self._staging = packed.staging(device)
        self._device = self._staging.to(device, copy=True)
        self._filled = None  # the layout that stands there
        self._host, found = packed.views(self._staging), packed.views(self._device)
        layout = {n: found.get(n) for n in Layout.__dataclass_fields__ if n in shapes}
        last = canvas.tokens.shape[1] - 1
        self.layout = Layout(live=[], **layout, max_position=last)
        self.controls = Controls(**{n: t for n, t in found.items() if n not in layout})

    def fill(self, layout=None, controls=None):
        """Pads a pass to the bucket and sends it; without one, all is padding."""
        given = {} if layout is None else {**tensors_of(layout), **tensors_of(controls)}
        if layout is not None and layout is self._filled:  # its controls alone have changed
            batch = layout.length.shape[0]
            for name in vars(self.controls).keys() & given.keys():
                self._host[name][:batch] = given[name]
        else:
            self._pad(layout, given)
            self._filled = layout
        self._device.copy_(self._staging, non_blocking=True)

    def _pad(self, layout, given):
        batch = 0 if layout is None else layout.length.shape[0]
        bucket = self.bucket
        padding = {"slot": -1, "n_keys": 1, "length": 1, "quota": 1, "leave": -1}
        padding["canvas_row"] = self.spare[: bucket.sequences - batch]
        ends = {"q_offsets": bucket.rows, "l_offsets": bucket.logit_rows}
        shared = ("target", "length", *vars(self.controls))  # by the streams
        for name, to in self._host.items():
            streams = 1 if name in shared else bucket.streams
            have = given.get(name)
            if name in ends:
                _offsets(to, have, streams, ends[name])
                continue
            to = to.view(streams, -1, *to.shape[1:])
            have = to.new_empty(0) if have is None else have
            have = have.view(streams, -1, *to.shape[2:]) if have.numel() else to[:, :0]
            if name == "logit_row":
                more = bucket.rows - (0 if layout is None else layout.rows // streams)
                have = have + more * torch.arange(streams)[:, None]
            to[:, : have.shape[1]] = have
            to[:, have.shape[1] :] = padding.get(name, 0)


def _offsets(to, have, streams, last):
    """Offsets of all streams: those of the live sequences, none, and `last` for the last one."""
    one = to.new_empty((to.shape[0] - 1) // streams + 1)
    count = 1 if have is None else (have.shape[0] - 1) // streams + 1
    one[:count] = 0 if have is None else have[:count]
    one[count:] = one[count - 1]
    one[-1] = last
    to[0] = 0
    for stream in range(streams):
        first = stream * (one.shape[0] - 1) + 1
        to[first : first + one.shape[0] - 1] = one[1:] + stream * last


class CapturedStep:
    """One bucket's step. A call fills in its inputs, replays it and gives back what it decided."""

    def __init__(self, step, inputs, capture, pool):
        self._step, self._inputs, self._decision = step, inputs, None
        inputs.fill()  # what is run before the capture must change nothing
        self._graph = capture(self._run, pool)

    def _run(self):
        self._decision = self._step(self._inputs.layout, self._inputs.controls)

    def __call__(self, layout, controls):
        """The `Targets` and the `Decision` of a pass: views, which the next replay overwrites."""
        self._inputs.fill(layout, controls)
        self._graph.replay()
        batch, count = layout.length.shape[0], layout.target.shape[0]
        fixed = self._inputs.layout
        targets = Targets(
            fixed.canvas_row[:batch],
            fixed.l_offsets[: batch + 1],
            fixed.target[:count],
            fixed.length[:batch],
        )
        return targets, Decision(*(t[:count] for t in self._decision))


class Graphs:
    """The captured steps of one workspace. `why_not` says why its last run had none, or is None."""

    def __init__(self, wanted=True):
        self.wanted, self.why_not = wanted, None
        self._steps, self._pool, self._weights = OrderedDict(), None, None
        self._last = None, None, None

    def __len__(self):
        return len(self._steps)

    @property
    def active(self):
        """Whether the steps of the current run are captured."""
        return self.why_not is None

    def prepare(self, adapter, settings):
        """Before a run: finds out whether its steps can be captured; `active`."""
        self._last = None, None, None  # step, layout and what was found for them
        self.why_not = "not wanted" if not self.wanted else obstacle(adapter, settings)
        if self.active:
            weights = addresses(adapter)
            if weights != self._weights:
                self.drop()
            self._weights = weights
        return self.active

    def drop(self):
        """Forgets all graphs: what they were captured on has moved."""
        self._steps.clear()

    def step_for(self, step, layout, controls):
        """The `CapturedStep` for a pass, captured if need be, or None where that has failed."""
        if not self.active:
            return None
        last_step, last_layout, found = self._last
        if last_step is not step or last_layout is not layout:
            found = self._found(step, layout, controls)
            self._last = step, layout, found
        return found

    def _found(self, step, layout, controls):
        names = {**tensors_of(layout), **tensors_of(controls)}
        bucket = Bucket.of(layout)
        key = bucket, frozenset(names), step.constants()
        if key in self._steps:
            self._steps.move_to_end(key)
            return self._steps[key]
        device = step.adapter.device
        capture = CAPTURES[device.type]
        try:
            if self._pool is None:
                self._pool = capture.pool()
            inputs = Inputs(bucket, step.canvas, names, device)
            self._steps[key] = CapturedStep(step.alone(), inputs, capture, self._pool)
        except RuntimeError as error:
            self.why_not = f"a step could not be captured: {error}"
            return None
        while len(self._steps) > MOST_GRAPHS:
            self._steps.popitem(last=False)
        return self._steps[key]


def obstacle(adapter, settings=None):
    """Why steps of this model, with these settings, cannot be captured, or None."""
    device = adapter.device.type
    if device not in CAPTURES:
        return f"{device} has no graphs"
    missing = [name for name in OPERATORS if not ops.has_kernel(name, device)]
    if missing:
        return f"{missing[0]} has no {device} kernel"
    odd = _not_plain(adapter)
    if odd is not None:
        return f"'{odd}' is no plain module or has hooks"
    if settings is None:
        return None
    if settings.cache == "none":
        return "cache='none' has no cached steps"
    for name, value in vars(settings).items():
        if callable(value) and name not in OUTSIDE:
            return f"{name} is called in the middle of every step"
    return None


def _modules(adapter):
    """Every module that a pass calls or whose weight it uses."""
    norms = [n for layer in adapter.layers for n in (layer.attention_norm, layer.mlp_norm)]
    return [*adapter.called(), *(n.module for n in (*norms, adapter.final_norm))]


def _not_plain(adapter):
    """Name of a module whose call is more than torch's own product or lookup, or None."""
    plain = {nn.Linear, nn.Embedding}
    called = {id(module) for module in adapter.called()}
    odd = {
        id(module)
        for module in _modules(adapter)
        if not linear_layers.only_own_forward(module)
        or (id(module) in called and type(module) not in plain)
    }
    if not odd and not linear_layers.hooked_everywhere():
        return None
    names = [name for name, module in adapter.model.named_modules() if id(module) in odd]
    return names[0] if names else "torch.nn.Module"


def addresses(adapter):
    """What tells whether graphs still read the model's weights: where and how they lie."""
    tensors = [t for module in _modules(adapter) for t in module.parameters(recurse=False)]
    if adapter.fused is not None:
        tensors += adapter.fused.tensors()
    return tuple((t.data_ptr(), t.dtype, t.shape, t.stride()) for t in tensors)
