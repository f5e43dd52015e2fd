"""The whole-canvas forward of a patched model: the stock signature on dpad's operators."""

import inspect
from dataclasses import dataclass

import torch

from dpad.decode.cache import KVCache
from dpad.decode.forward import run_layers

# Arguments that the operators serve; any other that is set sends the call to the stock forward.
_SERVED = {"input_ids", "inputs_embeds", "attention_mask", "return_dict", "use_cache"}


@dataclass
class _Rows:
    """Every position of every row of a batch, as one pass."""

    slot: torch.Tensor
    position: torch.Tensor
    q_offsets: torch.Tensor
    n_keys: torch.Tensor
    cache_row: torch.Tensor
    max_position: int


def _all_rows(batch, length, device):
    position = torch.arange(length, device=device).repeat(batch)
    offsets = torch.arange(batch + 1, device=device) * length
    keys = torch.full((batch,), length, dtype=torch.int64, device=device)
    rows = torch.arange(batch, device=device)
    return _Rows(position, position, offsets, keys, rows, length - 1)


def _is_set(value):
    """Whether an argument asks for something: not None, False, 0, nothing, or Dream's "full"."""
    if isinstance(value, torch.Tensor):
        return True
    return bool(value) and value != "full"


class FullForward:
    """Runs a call of the model's forward on the operators where they serve it, else the stock one.

    The stock forward runs while gradients are recorded, in training mode, and for arguments that
    need what the operators do not produce (hidden states, labels, biases).
    """

    def __init__(self, model, adapter, stock):
        self.model, self.adapter = model, adapter
        self.signature = inspect.signature(stock)

    def __call__(self, stock, args, kwargs):
        bound = self.signature.bind(*args, **kwargs)
        given = {n: v for n, v in bound.arguments.items() if _is_set(v)}
        inference = not (torch.is_grad_enabled() or self.model.training)
        served = inference and set(given) <= _SERVED
        one_input = ("input_ids" in given) != ("inputs_embeds" in given)
        wants_tuple = bound.arguments.get("return_dict") is False
        mask = given.get("attention_mask")
        flat = mask is None or mask.dim() == 2
        if not (served and one_input and flat) or wants_tuple or given.get("use_cache"):
            return stock(*args, **kwargs)
        from transformers import modeling_outputs

        output_class = getattr(modeling_outputs, self.adapter.output_class)
        return output_class(logits=self.logits(**given))

    def logits(self, input_ids=None, inputs_embeds=None, attention_mask=None, **_):
        """Logits ``[batch, length, vocab]``."""
        adapter = self.adapter
        hidden = adapter.embed(input_ids) if inputs_embeds is None else inputs_embeds
        batch, length, width = hidden.shape
        rows = _all_rows(batch, length, hidden.device)
        mask = None
        if attention_mask is not None and adapter.honours_mask:
            if attention_mask.shape != (batch, length):
                raise ValueError(
                    f"attention_mask has shape {list(attention_mask.shape)}, expected "
                    f"{[batch, length]}"
                )
            mask = attention_mask.bool()
        cache = KVCache()
        cache.reserve(adapter, batch, length)
        flat = hidden.reshape(-1, width)
        if flat.data_ptr() == hidden.data_ptr() and inputs_embeds is not None:
            flat = flat.clone()  # the residual is overwritten, the caller's tensor must not be
        return adapter.head(run_layers(adapter, flat, rows, cache, key_mask=mask)).unflatten(
            0, (batch, length)
        )
