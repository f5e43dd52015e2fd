"""Which cached steps are captured as graphs, kept and replayed, and which cannot be."""

from collections import OrderedDict
from threading import Lock

import torch
from torch import nn

from dpad import ops
from dpad.decode.captured_step import Bucket, CapturedStep, Inputs
from dpad.decode.plan import tensors_of
from dpad.decode.step import OUTSIDE
from dpad.models import linear_layers

MOST_GRAPHS = 32  # of one workspace; the one that was not used for longest goes first


class CudaGraph:
    """The work that `function` queues on the current device, recorded; `replay` queues it again."""

    def __init__(self, function, pool):
        memory, stream = pool
        current = torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):  # libraries allocate what they need in the first calls
            for _ in range(2):
                function()
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        options = {"pool": memory, "stream": stream, "capture_error_mode": "thread_local"}
        # The outer one, for torch leaves the stream of a capture that fails the current one.
        with torch.cuda.stream(current), torch.cuda.graph(graph, **options):
            function()
        self.replay = graph.replay

    @staticmethod
    def pool():
        """What graphs that never run at the same time share: memory, and the stream that cuBLAS
        keeps its scratch memory for.
        """
        return torch.cuda.graph_pool_handle(), torch.cuda.Stream()


CAPTURES = {"cuda": CudaGraph}  # by type of device
_CAPTURING = Lock()  # one at a time: torch waits for the whole device before a capture
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


class Graphs:
    """The captured steps of one workspace.

    `why_not` says why its last run had none, or is None; `asked` whether there was a run.
    """

    def __init__(self, wanted=True):
        self.wanted, self.asked, self.why_not, self._failed = wanted, False, None, None
        self._steps, self._pool, self._read = OrderedDict(), None, None

    def __len__(self):
        return len(self._steps)

    @property
    def active(self):
        """Whether the steps of the current run are captured."""
        return self.why_not is None

    def prepare(self, adapter, cache, settings):
        """Before a run: finds out whether its steps can be captured; `active`."""
        self.asked, self.why_not = True, self._failed
        if self.active:
            self.why_not = "not wanted" if not self.wanted else obstacle(adapter, settings)
        if self.active:
            read = cache.made, *addresses(adapter)
            if read != self._read:
                self.drop()
            self._read = read
        return self.active

    def drop(self):
        """Forgets all graphs: what they were captured on has moved."""
        self._steps.clear()

    def step_for(self, step, layout, controls):
        """The `CapturedStep` for a pass, captured if need be, or None where that has failed."""
        if not self.active:
            return None
        names = {**tensors_of(layout), **tensors_of(controls)}
        bucket = Bucket.of(layout)
        watched = step.settings.on_step is not None
        key = bucket, frozenset(names), watched, step.constants()
        if key in self._steps:
            self._steps.move_to_end(key)
            return self._steps[key]
        device = step.adapter.device
        capture = CAPTURES[device.type]
        try:
            if not self._steps:  # a pool that has lost all its graphs is gone as well
                self._pool = capture.pool()
            inputs = Inputs(bucket, step.canvas, names, device)
            with _CAPTURING:
                captured = CapturedStep(step.alone(), inputs, capture, self._pool, watched)
        except RuntimeError as error:  # for good: torch's allocator may not recover from it
            line = str(error).partition("\n")[0]
            self.why_not = self._failed = f"a step could not be captured: {line}"
            return None
        self._steps[key] = captured
        while len(self._steps) > MOST_GRAPHS:
            self._steps.popitem(last=False)
        return captured


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
    return [*adapter.called(), *(norm.module for norm in adapter.norms())]


def _not_plain(adapter):
    """Name of a module that is more than torch's own product or lookup on plain weights."""
    plain, ordinary = {nn.Linear, nn.Embedding}, {torch.Tensor, nn.Parameter}
    odd = {id(module) for module in adapter.called() if type(module) not in plain}
    odd |= {
        id(module)
        for module in _modules(adapter)
        if not linear_layers.only_own_forward(module)
        or any(type(t) not in ordinary or t.layout != torch.strided for t in _weights(module))
    }
    if not odd and not linear_layers.hooked_everywhere():
        return None
    names = [name for name, module in adapter.model.named_modules() if id(module) in odd]
    return names[0] if names else "torch.nn.Module"


def _weights(module):
    """Its weight and bias, as parameters or, which takes longer, as attributes of another kind."""
    own = module._parameters
    found = (own[n] if n in own else getattr(module, n, None) for n in ("weight", "bias"))
    return [t for t in found if t is not None]


def addresses(adapter):
    """What tells whether graphs still read the model's weights: where and how they lie, and what
    else of the model is written into them.
    """
    tensors = [t for module in _modules(adapter) for t in _weights(module)]
    if adapter.fused is not None:
        tensors += adapter.fused.tensors()
    numbers = (adapter.head.scale, *(norm.eps for norm in adapter.norms()))
    return numbers, tuple((t.data_ptr(), t.dtype, t.shape, t.stride()) for t in tensors)
