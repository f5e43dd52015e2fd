"""`Int8Linear`: a linear layer with 8-bit weights, in the place of an `nn.Linear`."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from dpad import ops

# Elements of a weight that are widened together: they stay in the caches, and the C library uses
# their memory again.
PIECE = 1 << 18


class Int8Module(nn.Module):
    """A module with int8 weights, whose buffers named in `wide` are float32, whatever dtype the
    model is converted to.
    """

    wide: tuple[str, ...] = ("scale",)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        kept = {name: getattr(self, name) for name in self.wide}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in kept.items():
            after = getattr(self, name)
            if after is not None and after.dtype != torch.float32:
                setattr(self, name, before.to(after.device))
        return self


class Int8Linear(Int8Module):
    """``x weight^T + bias`` by `dpad.ops.int8_linear`, for inference.

    Its state dict holds `weight` (int8 ``[out_features, in_features]``), `scale` (float32
    ``[out_features]``: a weight counts as ``weight * scale``), `smoothing` (float32
    ``[in_features]``, only where it was given) and `bias` (of the model's dtype, if it has one).
    """

    weight: Tensor
    scale: Tensor
    smoothing: Tensor | None
    wide = ("scale", "smoothing")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        smoothing: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        shape = out_features, in_features
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.zeros(out_features, device=device, dtype=torch.float32))
        factors = torch.ones(in_features, device=device, dtype=torch.float32) if smoothing else None
        self.register_buffer("smoothing", factors)
        zeros = torch.zeros(out_features, device=device, dtype=dtype) if bias else None
        self.bias = None if zeros is None else nn.Parameter(zeros, requires_grad=False)

    @classmethod
    def of(cls, linear: nn.Linear, smoothing: Tensor | None = None) -> Self:
        """The 8-bit layer of an `nn.Linear`, whose bias it shares.

        `smoothing`: float32 ``[in_features]`` or None, the factors of the layer's inputs; its
        weight's columns are divided by them.
        """
        made = cls(linear.in_features, linear.out_features, device="meta")
        made.weight, made.scale = quantize_weight(linear.weight.detach(), smoothing)
        made.smoothing, made.bias = smoothing, linear.bias
        return made.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[..., in_features]``; returns ``[..., out_features]`` of x's dtype."""
        rows = x.reshape(-1, self.in_features)
        out = ops.int8_linear(rows, self.weight, self.scale, self.bias, self.smoothing)
        return out.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{text}, bias={self.bias is not None}, smoothing={self.smoothing is not None}"


def quantize_weight(weight: Tensor, smoothing: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(int8 ``[out_features, in_features]``, float32 scale ``[out_features]``) of a weight.

    A feature's scale is its largest magnitude / 127; values are rounded to the nearest, ties to
    even. A few rows are widened at a time. With `smoothing` columns are divided by it first.

    Raises:
        ValueError: a weight that is not finite.
    """
    rows = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = weight.new_empty(len(weight), dtype=torch.float32)
    step = max(1, PIECE // max(1, weight.shape[1]))
    for first in range(0, len(weight), step):
        some = slice(first, first + step)
        wide = weight[some].float() if smoothing is None else weight[some].float() / smoothing
        most = wide.abs().amax(1) if wide.shape[1] else wide.new_zeros(len(wide))
        if not most.isfinite().all():
            raise ValueError("the weight holds a value that is not finite")
        scale[some] = most / 127
        factor = torch.where(most > 0, torch.div(torch.full_like(most, 127), most), 0.0)
        rows[some] = (wide * factor[:, None]).round().clamp(-127, 127).to(torch.int8)
    return rows, scale
