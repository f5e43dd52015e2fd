"""A comparison of an operator with its stock peers, and what makers of comparisons share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from dpad import ops
from dpad.ops import inputs, reference


def in_a_line(error):
    """An exception's text, the beginning of a long one."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


@dataclass
class Case:
    """One comparison. Functions take nothing; results are tensors or tuples of tensors.

    `expected` gives the result in a wider dtype, `tolerance` is the allowed error as a share of
    its largest value, or the peer whose error ours may have twice, and other peers ten times;
    `unavailable` says why a peer is not there.
    """

    name: str
    functions: dict  # "dpad" and the peers
    expected: Callable
    tolerance: float | str
    bytes: int = 0
    operations: int = 0
    unavailable: dict = field(default_factory=dict)

    def check(self):
        """Raises where dpad's result is wrong. Peers that refuse the case or whose result is wrong
        are not there.
        """
        expected, ours, theirs = self.expected(), self.tolerance, self.tolerance
        if isinstance(self.tolerance, str):
            error = (self.functions[ours]() - expected).abs().max() / expected.abs().max()
            ours, theirs = 2 * error.item(), 10 * error.item()
        for name, function in list(self.functions.items()):
            try:
                compare(function(), expected, ours if name == "dpad" else theirs)
            except Exception as error:
                if name == "dpad":
                    raise
                self.unavailable[name] = in_a_line(error)
                del self.functions[name]


def compare(found, expected, tolerance):
    """Raises AssertionError where an integer differs, or a number by more than it may."""
    found, expected = (x if isinstance(x, tuple) else (x,) for x in (found, expected))
    for a, b in zip(found, expected, strict=True):
        allowed = tolerance * b.abs().max().item() if b.is_floating_point() else 0
        torch.testing.assert_close(a, b, rtol=0, atol=allowed, check_dtype=False)


def drawn(name, device, dtype=torch.bfloat16, **sizes):
    """Arguments of an operator on the device."""
    return inputs.make(name, 0, dtype, device=device, **sizes)


def size_of(*values):
    """Bytes of those that are tensors."""
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def wide(args):
    """The arguments with float32 for bfloat16."""
    narrow = lambda x: isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16  # noqa: E731
    return {name: x.float() if narrow(x) else x for name, x in args.items()}


def against_torch(operator, name, args, peer, tolerance=2**-6, size=None):
    """A case whose expected result is the twin's, of float32 for bfloat16; without a `size` every
    argument and every result is moved once, what is written over twice.
    """
    ours = partial(getattr(ops, operator), **args)
    twin = lambda: getattr(reference, operator)(**wide(args))  # noqa: E731
    if size is None:
        found = ours()
        found = found if isinstance(found, tuple) else (found,)
        written = [args[name] for name in inputs.WRITTEN.get(operator, ())]
        size = size_of(*args.values(), *written, *found)
    return Case(f"{operator} {name}", {"dpad": ours, "torch": peer}, twin, tolerance, size)


def short(dtype):
    """ "float32" of torch.float32."""
    return str(dtype).removeprefix("torch.")
