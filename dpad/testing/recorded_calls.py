"""A CUDA graph's stand-in for any device: operator calls, recorded once and run again.

It keeps to what a capture keeps to. The host's code runs once; a replay runs the recorded operators
on the recorded tensors and writes what they return to where it was. Reading a value, shapes that
depend on values and tensors made from the host's values are errors, as they are in a capture.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_REFUSED = (
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "lift_fresh",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique",
)


class RecordedCalls(TorchDispatchMode):
    """The calls of `function`; takes the place of `dpad.decode.graphs.CudaGraph` in tests."""

    def __init__(self, function, pool=None):
        super().__init__()
        function()  # libraries may allocate: a graph is warmed up as well
        self._calls = []
        with self:
            function()

    @staticmethod
    def pool():
        """Nothing to share."""
        return None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.name().split("::")[1].split(".")[0]
        by_mask = name == "index" and any(
            isinstance(t, torch.Tensor) and t.dtype == torch.bool for t in args[1]
        )
        if by_mask or (name in _REFUSED and not kwargs.get("output_size")):
            raise RuntimeError(f"operation not permitted when a step is captured: {func.name()}")
        out = func(*args, **kwargs)
        self._calls.append((func, args, kwargs, out))
        return out

    def replay(self):
        """Runs the calls again."""
        for func, args, kwargs, out in self._calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
