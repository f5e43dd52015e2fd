"""Random LLaDAs of real shapes, for measurements to which weights do not matter."""

import torch

from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM

_NAMES = ("d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size", "vocab_size")
_shape = lambda *sizes: dict(zip(_NAMES, sizes, strict=True))  # noqa: E731
# Both on LLaDA's module tree: what is measured is the shape. Of Dream the biases of q, k, v (1e-5
# of the weights) and the row before the block (one of 33) are left out.
RELEASED = {
    "LLaDA-8B": _shape(4096, 32, 32, 32, 12288, 126464),
    "Dream-7B": _shape(3584, 28, 4, 28, 18944, 152064),
}
TINY = {"tiny": _shape(64, 4, 2, 2, 96, 300)}
# The shape of LLaDA-8B made narrow: the head is 7.5 % of the products there and here.
MID = {
    **_shape(1024, 16, 16, 8, 2816, 8192),
    "embedding_size": 8192,
    "mask_token_id": 8190,
    "eos_token_id": 8189,
    "pad_token_id": 8189,
    "max_sequence_length": 2048,
}


def mid(width):
    """`MID` at another width, a multiple of 64; 120 M parameters at 1,024."""
    heads = {"n_heads": width // 64, "n_kv_heads": width // 64}
    return MID | {"d_model": width, "mlp_hidden_size": 11 * width // 4, **heads}


def mid_model(width=MID["d_model"], **fields):
    """`build` of `mid`, with other fields."""
    return build(mid(width) | fields, embedding=32.0)


def build(fields, dtype=torch.float32, device="cpu", seed=0, embedding=1.0):
    """A model of these fields of its configuration, whose activations keep their size, whose
    confidences spread out and that never predicts the mask; embeddings are `embedding` times larger
    than a layer's weights.
    """
    config = LLaDAConfig(**fields)
    with torch.device("meta"):
        model = LLaDAModelLM(config).to(dtype).requires_grad_(False)
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for weight in model.parameters():
        if weight.dim() == 1:
            weight.fill_(1)
        else:
            weight.normal_(0, weight.shape[1] ** -0.5, generator=generator)
    parts = model.model.transformer
    parts.wte.weight.mul_(embedding)
    parts.ff_out.weight.mul_(4)
    parts.wte.weight[config.mask_token_id].mul_(0.1)
    parts.ff_out.weight[config.mask_token_id].zero_()
    return model.eval()
