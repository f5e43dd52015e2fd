"""Bad arguments of an operator: (changes by name, the argument that is named, what is said)."""

import math

import torch

NAN = float("nan")


def part(name, *index):
    """The argument `name`, narrowed."""
    return lambda args: args[name][index]


def with_value(name, index, value):
    """The argument `name` with one element replaced."""

    def change(args):
        changed = args[name].clone()
        changed.view(-1)[index] = value
        return changed

    return change


def wider(name):
    """The argument `name` as every second element of a wider tensor."""
    return lambda args: args[name].repeat_interleave(2, -1)[..., ::2]


def expanded(name):
    """The argument `name` with its first row everywhere."""
    return lambda args: args[name][:1].expand_as(args[name])


def same(name):
    """The argument `name` itself, in another place."""
    return lambda args: args[name]


def inside(name, shape):
    """A part of the argument `name` as a tensor of that shape."""
    return lambda args: args[name].flatten()[: math.prod(shape)].view(shape)


def inside_bytes(name, like):
    """A copy of the argument `like` that lies in the memory of the argument `name`."""

    def change(args):
        values = args[like]
        size = values.numel() * values.element_size()
        there = args[name].view(torch.uint8).flatten()[:size].view(values.dtype)
        return there.view(values.shape).copy_(values)

    return change


def wrong_dtype(*names, value=torch.int32):
    return [({n: lambda a, n=n: a[n].to(value)}, n, "has dtype") for n in names]


def wrong_size(*names):
    return [({n: part(n, slice(1))}, n, "has shape") for n in names]


LARGEST = 2**63 - 1
TOO_DEEP = {n: lambda a, n=n: a[n].new_zeros(len(a[n]), 65537) for n in ("x", "weight")}
HALVES = torch.float64, torch.int64
