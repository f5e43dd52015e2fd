"""Shared by the operator tests: bitwise equality, guarded memory, error bounds, random passes."""

import contextlib
import math
import os

import pytest
import torch

from dpad import ops

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def devices(cpu=("cpu",)):
    """`cpu`, and "cuda" where there is a device with kernels; DPAD_DEVICES=cuda leaves out the CPU.

    A machine with a GPU whose kernels are missing is an error, not a reason to skip.
    """
    if not torch.cuda.is_available():
        return cpu
    if not ops.loaded("_C_cuda"):
        raise RuntimeError(f"there is a CUDA device, but: {ops.build_info()['_C_cuda']}")
    only = os.environ.get("DPAD_DEVICES", "")
    if only not in ("", "cpu", "cuda"):
        raise ValueError(f"DPAD_DEVICES={only}: expected cpu or cuda")
    return {"": (*cpu, "cuda"), "cpu": cpu, "cuda": ("cuda",)}[only]


PLANNING = ("suffix_table", "transfer_schedule", "suffix_sample", "plan_pass")
CPU_ONLY = (*PLANNING, "linear", "grouped_linear", "grouped_swiglu", "int8_linear")
_device = "cpu"  # where `call` runs the operators


@contextlib.contextmanager
def calls_on(device):
    """Within it `call` runs on `device`, with copies of the arguments."""
    global _device
    before, _device = _device, device
    try:
        yield
    finally:
        _device = before


class Moved:
    """Copies of tensors on another device: whole storages, so layout, guards and aliases stay."""

    def __init__(self, device):
        self.device, self.storages = device, {}

    def put(self, value):
        if not isinstance(value, torch.Tensor):
            return value
        here = value.untyped_storage()
        if here.data_ptr() not in self.storages:
            copy = torch.UntypedStorage(here.nbytes(), device=self.device).copy_(here)
            self.storages[here.data_ptr()] = (here, copy)
        there = self.storages[here.data_ptr()][1]
        moved = torch.empty(0, dtype=value.dtype, device=self.device)
        return moved.set_(there, value.storage_offset(), value.size(), value.stride())

    def bring_back(self):
        for here, there in self.storages.values():
            here.copy_(there)


def call(name, args):
    """The public operator, on the device of `calls_on`; results are on the CPU."""
    if _device == "cpu":
        return getattr(ops, name)(**args)
    if name in CPU_ONLY:
        pytest.skip(f"{name} is for the CPU")
    assert ops.has_kernel(name, _device), f"{name} has no kernel on {_device}"
    moved = Moved(_device)
    result = getattr(ops, name)(**{k: moved.put(v) for k, v in args.items()})
    moved.bring_back()
    if result is None:
        return None
    return tuple(r.cpu() for r in result) if isinstance(result, tuple) else result.cpu()


def twin(name, args):
    """The plain-torch twin."""
    return getattr(ops.reference, name)(**args)


def copied(args):
    """`args` with every tensor cloned, strides kept."""
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in args.items()}


def raw(t):
    """The bytes of a tensor's elements, in order."""
    return t.contiguous().reshape(-1).view(torch.uint8)


def assert_same_bits(actual, expected):
    """Equal shape, dtype and bits; tensors or tuples of tensors."""
    if isinstance(actual, tuple):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_same_bits(a, e)
        return
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    if not torch.equal(raw(actual), raw(expected)):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
        raise AssertionError("equal values, different bits (signed zeros or NaN payloads)")


def assert_twice(actual, same_dtype, truth, size=None):
    """The largest error is at most twice that of same-dtype torch; `truth` is float64.

    Small tensors may be lucky, so one unit in the last place of the largest value is allowed on
    top, and one float32 unit of `size`, the largest magnitude among the summed terms.
    """
    assert actual.shape == truth.shape and actual.dtype == same_dtype.dtype
    if truth.numel() == 0:
        return
    assert truth.isfinite().all() and actual.isfinite().all()
    error = (actual.double() - truth).abs().max()
    allowed = (same_dtype.double() - truth).abs().max()
    floor = torch.finfo(actual.dtype).eps * truth.abs().max()
    if size is not None:
        floor += torch.finfo(torch.float32).eps * size
    assert error <= 2 * allowed + floor, f"error {error:.3g}, torch {allowed:.3g}"


@contextlib.contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Guarded:
    """Places tensors in larger buffers whose other bytes are 0xFF (NaN, -1) and watches those.

    Reading outside a tensor gives NaN or -1, writing outside is found by `check`, and so is any
    change of a tensor that is not `written`. The guards also shift every tensor off alignment.
    """

    GUARD = 61  # elements on both sides

    def __init__(self):
        self._held = []

    def put(self, value, order=None, gap=0, written=False):
        """A view equal to `value`; storage dimensions in `order`, each `gap` elements wider."""
        order = order or tuple(range(value.dim()))
        sizes = [value.shape[d] + gap for d in order]
        count = math.prod(sizes)
        width = value.element_size()
        buffer = torch.full(((count + 2 * self.GUARD) * width,), 0xFF, dtype=torch.uint8)
        whole = buffer.view(value.dtype)[self.GUARD : self.GUARD + count].view(sizes)
        for d, source in enumerate(order):
            whole = whole.narrow(d, gap // 2, value.shape[source])
        view = whole.permute([order.index(d) for d in range(value.dim())])
        view.copy_(value)
        self._held.append((buffer, buffer.clone(), view, written))
        return view

    def put_all(self, args, written=(), **layouts):
        """Every tensor of `args`; `layouts` gives (order, gap) by name."""
        out = dict(args)
        for name, value in args.items():
            if isinstance(value, torch.Tensor) and value.dtype != torch.bool:
                order, gap = layouts.get(name, (None, 0))
                out[name] = self.put(value, order, gap, name in written)
        return out

    def check(self):
        for buffer, before, view, written in self._held:
            if written:
                same = before.view(view.dtype).as_strided(
                    view.size(), view.stride(), view.storage_offset()
                )
                same.copy_(view)
            assert torch.equal(buffer, before), "a byte outside the written arguments changed"


class GraphPasses:
    """A torch.compile backend: what Inductor does to a graph, without its C++ compiler.

    Graphs are made functional, optimised, and their mutations put back where Inductor would; then
    they are interpreted. `graphs` holds them as they run.
    """

    def __init__(self):
        self.graphs = []

    def __call__(self, module, inputs):
        from torch._dynamo.backends.common import aot_autograd
        from torch._inductor.decomposition import select_decomp_table

        compiler = aot_autograd(
            fw_compiler=self._compile,
            decompositions=select_decomp_table(),
            keep_inference_input_mutations=True,
        )
        return compiler(module, inputs)

    def _compile(self, module, inputs):
        from functorch.compile import make_boxed_func
        from torch._guards import detect_fake_mode
        from torch._inductor.fx_passes.post_grad import post_grad_passes
        from torch._inductor.virtualized import V

        with V.set_fake_mode(detect_fake_mode(inputs)):
            post_grad_passes(module, is_inference=True)
        self.graphs.append(module)
        return make_boxed_func(module.forward)

    def nodes(self, *targets):
        """Nodes of the last graph that call one of these overload packets."""
        nodes = self.graphs[-1].graph.nodes
        return [n for n in nodes if getattr(n.target, "overloadpacket", None) in targets]

    def copies(self, shape):
        """Nodes of the last graph that copy a tensor with as many elements as this shape has."""
        aten = torch.ops.aten
        nodes = self.nodes(aten.clone, aten.copy, aten.copy_, aten._to_copy)
        found = [n for n in nodes if n.meta["val"].numel() == math.prod(shape)]
        return [n for n in found if len(n.args) < 2 or n.args[0] is not n.args[1]]


def offsets_of(counts):
    """[0, c0, c0 + c1, ...], int64."""
    return torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def chi_square_limit(free):
    """Quantile 1 - 1e-4 of the chi-square distribution (Wilson-Hilferty)."""
    return free * (1 - 2 / (9 * free) + 3.72 * math.sqrt(2 / (9 * free))) ** 3
