"""`Int8Embedding`: an embedding with 8-bit rows, in the place of an `nn.Embedding`."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpad.models.int8_linear import Int8Module, quantize_weight


class Int8Embedding(Int8Module):
    """A row ``weight[id] * scale[id]`` for every id, for inference.

    Its state dict holds `weight` (int8 ``[num_embeddings, embedding_dim]``) and `scale` (float32
    ``[num_embeddings]``). `dtype` is that of its outputs, and follows the model's: products are
    made in float32 and rounded once.
    """

    weight: Tensor
    scale: Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.dtype = num_embeddings, embedding_dim, dtype
        shape = num_embeddings, embedding_dim
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.int8, device=device))
        scale = torch.zeros(num_embeddings, device=device, dtype=torch.float32)
        self.register_buffer("scale", scale)

    @classmethod
    def of(cls, embedding: nn.Embedding) -> Self:
        """The 8-bit one of an `nn.Embedding`.

        Raises:
            ValueError: a weight that is not finite.
        """
        weight = embedding.weight.detach()
        made = cls(weight.shape[0], weight.shape[1], device="meta", dtype=weight.dtype)
        made.weight, made.scale = quantize_weight(weight)
        return made.train(embedding.training)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: int64 of any shape; returns ``[..., embedding_dim]`` of `dtype`."""
        rows, scale = F.embedding(ids, self.weight), F.embedding(ids, self.scale[:, None])
        return (rows * scale).to(self.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.scale.device)).dtype
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, dtype={self.dtype}"
