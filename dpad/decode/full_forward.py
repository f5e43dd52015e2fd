"""The whole-canvas forward of a patched model: the stock signature on dpad's operators."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from dpad.decode import forked
from dpad.decode.attention import Sizes
from dpad.decode.forward import run_layers
from dpad.models.adapter import Adapter

# Arguments that the operators serve; any other that is set sends the call to the stock forward.
_SERVED = {"input_ids", "inputs_embeds", "attention_mask", "return_dict", "use_cache"}

# Options that Transformers takes from the configuration where the call leaves them open -> the
# value that the operators serve.
_OF_CONFIG = {"output_hidden_states": False, "output_attentions": False, "return_dict": True}


@dataclass
class _Rows:
    """Every position of every row of a batch, as one pass."""

    slot: torch.Tensor
    position: torch.Tensor
    q_offsets: torch.Tensor
    n_keys: torch.Tensor
    kv_start: torch.Tensor
    max_position: int
    sizes: Sizes | None


def _all_rows(batch: int, length: int, device: torch.device) -> _Rows:
    position = torch.arange(length, device=device).repeat(batch)
    offsets = torch.arange(batch + 1, device=device) * length
    keys = torch.full((batch,), length, dtype=torch.int64, device=device)
    sizes = None
    if not torch.compiler.is_compiling():  # it would make a graph for every batch size
        sizes = tuple((length, row * length, length) for row in range(batch))
    return _Rows(position, position, offsets, keys, offsets[:-1], length - 1, sizes)


@dataclass
class _Buffers:
    """K and V of one layer, which all layers share: each writes every slot before it reads any."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]


def _is_set(value: object) -> bool:
    """Whether an argument asks for something: not None, False, 0, nothing, or Dream's "full"."""
    if value is None or isinstance(value, (bool, int, str)):
        return bool(value) and value != "full"
    return True  # an empty cache too: it is there to be filled


class FullForward:
    """Runs a call of the model's forward on the operators where they serve it, else the stock one.

    The stock forward runs while gradients are recorded, in training mode, under autocast, and for
    arguments that need what the operators do not produce (hidden states, labels, biases). What does
    not depend on the call is made here: ``torch.compile(fullgraph=True)`` could not trace it.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, stock: Callable[..., Any]) -> None:
        from transformers import modeling_outputs

        self.model, self.adapter = model, adapter
        self.names = tuple(inspect.signature(stock).parameters)
        self.output_class = getattr(modeling_outputs, adapter.output_class)
        adapter.rope(0)

    def __call__(
        self, stock: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = self._served(args, kwargs)
        if given is None:
            return stock(*args, **kwargs)
        if not torch.compiler.is_compiling():
            forked.check(self.adapter.device)
            if self.adapter.strict and self.adapter.unserved():
                return stock(*args, **kwargs)  # which runs all of them
            if self.adapter.fused is not None:
                self.adapter.fused.refresh()
        return self.output_class(logits=self.logits(**given))

    def _served(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """The arguments that ask for something, by name; None where the stock forward has to run,
        be it to raise the error.
        """
        stock_only = torch.is_grad_enabled() or self.model.training
        if stock_only or torch.is_autocast_enabled(self.adapter.device.type):
            return None
        bound = {**dict(zip(self.names, args, strict=False)), **kwargs}
        takes = self.adapter.forward_takes
        given = {n: v for n, v in bound.items() if _is_set(v) and n not in takes}
        wrong = len(bound) < len(args) + len(kwargs) or not set(bound) <= set(self.names)
        if wrong or not set(given) <= _SERVED or given.get("use_cache"):
            return None
        if self._asked_by_config(bound):
            return None
        wanted = ((name, value) for name, value in takes.items() if value is not ...)
        if any(name not in bound or bound[name] != value for name, value in wanted):
            return None  # a forward with another attention than the adapter's
        mask = given.get("attention_mask")
        flat = mask is None or mask.dim() == 2
        one_input = ("input_ids" in given) != ("inputs_embeds" in given)
        return given if one_input and flat and bound.get("return_dict") is not False else None

    def _asked_by_config(self, bound: dict[str, Any]) -> bool:
        """Whether the configuration asks for what the call leaves open and only the stock forward
        gives, as Transformers reads it.
        """
        config = getattr(self.model, "config", None)
        for name, served in _OF_CONFIG.items():
            if bound.get(name) is None and bool(getattr(config, name, served)) != served:
                return True
        return False

    def logits(
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: object,
    ) -> torch.Tensor:
        """Logits ``[batch, length, vocab]``."""
        adapter = self.adapter
        # The residual is overwritten, the caller's tensor must not be.
        # One of the two is given.
        ids = cast("torch.Tensor", input_ids)
        hidden = adapter.embed(ids) if inputs_embeds is None else inputs_embeds.clone()
        batch, length, width = hidden.shape
        mask = None
        if attention_mask is not None and adapter.honours_mask:
            if attention_mask.shape != (batch, length):
                raise ValueError(
                    f"attention_mask has shape {list(attention_mask.shape)}, expected "
                    f"{[batch, length]}"
                )
            mask = attention_mask.bool().flatten()
        size = (adapter.num_kv_heads, batch * length, adapter.head_dim)
        pair = hidden.new_empty(size), hidden.new_empty(size)
        cache = _Buffers([pair] * len(adapter.layers))
        rows = _all_rows(batch, length, hidden.device)
        limit = adapter.key_limit(rows.position, length)
        flat = hidden.reshape(-1, width)
        normed = run_layers(adapter, flat, rows, cache, key_mask=mask, key_limit=limit)
        return adapter.head(normed).unflatten(0, (batch, length))
