"""What torch.compile, torch.export and the meta device see of the operators.

A fake refuses the devices, dtypes and shapes that the kernel refuses, in the same words, and gives
results of the right shapes. All of them are made of one table (`dpad.ops._signatures`).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from dpad.ops._signatures import COUNTS, DTYPES, FLOATS, SIGNATURES, Operand

_library = None  # registrations last as long as it does


def _dynamic_size() -> int:
    """A size that depends on values: a SymInt, which may stand where an int does."""
    return cast("int", torch.library.get_ctx().new_dynamic_size())


class _Call:
    """One call of a fake: its arguments by name, and the sizes and dtype they agree on."""

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self.name, self.arguments = name, arguments
        self.sizes: dict[str, int] = {}
        self.like: Tensor | None = None
        self.float: tuple[torch.dtype, ...] = FLOATS

    def require(self, condition: bool, argument: str, text: str) -> None:
        message = f"dpad::{self.name}: argument '{argument}' {text}"
        torch._check(condition, lambda: message)

    def count(self, argument: str, value: int) -> None:
        least, most = COUNTS[argument]
        text = f"= {value}: expected a count in [{least}, 2^{most.bit_length() - 1}]"
        self.require(value >= least, argument, text)
        self.require(value <= most, argument, text)
        self.sizes[argument] = value

    def take(self, operand: Operand) -> None:
        """Checks one tensor as the kernel does."""
        tensor, name = self.arguments[operand.name], operand.name
        if tensor is None and operand.optional:
            return
        self.require(tensor is not None, name, "is None, expected a tensor")
        self.like = tensor if self.like is None else self.like
        device = self.like.device
        where = f"is not on the device of the first argument, {device}"
        self.require(tensor.device == device, name, where)
        expected = (DTYPES[operand.dtype],) if operand.dtype in DTYPES else self.float
        texts = [str(d).removeprefix("torch.") for d in (tensor.dtype, *expected)]
        text = f"has dtype {texts[0]}, expected {' or '.join(texts[1:])}"
        self.require(tensor.dtype in expected, name, text)
        if operand.dtype == "float":
            self.float = (tensor.dtype,)
        self._take_shape(tensor, operand)

    def _take_shape(self, tensor: Tensor, operand: Operand) -> None:
        shape = operand.shape(self.sizes)
        wanted = ", ".join("*" if size is None else str(size) for size in shape)
        text = f"has shape {list(tensor.shape)}, expected [{wanted}]"
        self.require(tensor.dim() == len(shape), operand.name, text)
        for name, size, found in zip(operand.sizes, shape, tensor.shape, strict=True):
            if size is None:
                self.sizes[name] = found
            else:
                self.require(found == size, operand.name, text)

    def result(self, operand: Operand) -> Tensor:
        """An empty tensor of the result's shape."""
        for name in operand.sizes:
            if name.endswith("?") and name not in self.sizes:
                self.sizes[name] = _dynamic_size()
        shape = cast("list[int]", operand.shape(self.sizes))  # all of them are known here
        dtype = DTYPES[operand.dtype] if operand.dtype in DTYPES else self.float[0]
        if self.like is None:
            return torch.empty(shape, dtype=dtype)
        return self.like.new_empty(shape, dtype=dtype)


def _check_rope(call: _Call) -> None:
    columns = call.sizes["turned"]
    text = f"= {columns}: expected at most head_dim / 2 columns"
    call.require(2 * columns <= call.sizes["head_dim"], "cos", text)


def _check_heads(call: _Call) -> None:
    heads, kv_heads = call.sizes["heads"], call.sizes["kv_heads"]
    text = f"= {kv_heads}: expected kv heads that divide the query heads"
    call.require(kv_heads >= 1, "k_cache", text)
    call.require(heads % kv_heads == 0, "k_cache", text)


def _check_route(call: _Call) -> None:
    experts, top_k = call.sizes["experts"], call.sizes["top_k"]
    groups, top_groups = call.arguments["groups"], call.arguments["top_groups"]
    text = f"= {groups}: expected a count of groups that divides the experts"
    call.require(groups >= 1, "groups", text)
    call.require(experts % groups == 0, "groups", text)
    text = f"= {top_groups}: expected between 1 and the number of groups"
    call.require(top_groups >= 1, "top_groups", text)
    call.require(top_groups <= groups, "top_groups", text)
    text = f"= {top_k}: expected between 1 and the number of experts that may be chosen"
    call.require(top_k <= experts // groups * top_groups, "top_k", text)


def _check_sums(call: _Call) -> None:
    found, most = call.sizes["in_features"], 65536
    text = f"has {found} features: at most {most} products of 8 bits fit into a sum of 32"
    call.require(found <= most, "x", text)


def _size_plan(call: _Call) -> None:
    """Rows have a limit where attention is block-causal."""
    call.sizes["lines?"] = 3 if call.arguments["block_length"] > 0 else 2


# What holds between sizes beyond the table.
_RULES = {
    "rope_kv_write_": _check_rope,
    "block_attention": _check_heads,
    "route": _check_route,
    "plan_pass": _size_plan,
    "int8_linear": _check_sums,
}


def _names(name: str) -> list[str]:
    return [argument.name for argument in getattr(torch.ops.dpad, name).default._schema.arguments]


def _fake(name: str) -> Callable[..., Any]:
    signature, names = SIGNATURES[name], _names(name)

    def fake(*arguments: Any) -> Any:
        call = _Call(name, dict(zip(names, arguments, strict=True)))
        for result in signature.results:
            for size in result.sizes:
                if size in COUNTS and size not in call.sizes:
                    call.count(size, call.arguments[size])
        for operand in signature.operands:
            call.take(operand)
        if name in _RULES:
            _RULES[name](call)
        results = tuple(call.result(result) for result in signature.results)
        return results[0] if len(results) == 1 else results or None

    return fake


def _negative(name: str, written: Collection[str]) -> Callable[..., Any]:
    """The kernel of views whose sign is turned (`Tensor.is_neg`), for an operator that writes.

    torch's own would copy the written arguments, call the operator, and fail while it copies back.
    """
    names, operator = _names(name), getattr(torch.ops.dpad, name).default

    def negative(*arguments: Any) -> Any:
        for argument, value in zip(names, arguments, strict=True):
            if argument in written and value.is_neg():
                raise RuntimeError(
                    f"dpad::{name}: argument '{argument}' is written and a view with its sign "
                    "turned (is_neg() = True): pass a tensor of its own, resolve_neg()"
                )
        return operator(*(a.resolve_neg() if isinstance(a, torch.Tensor) else a for a in arguments))

    return negative


def register() -> None:
    """Registers all fakes; called once, right after the module is loaded."""
    global _library
    _library = torch.library.Library("dpad", "IMPL")
    for name in SIGNATURES:
        torch.library.register_fake(f"dpad::{name}", _fake(name))
        schema = getattr(torch.ops.dpad, name).default._schema
        written = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write]
        if written:
            _library.impl(name, _negative(name, written), "Negative")
