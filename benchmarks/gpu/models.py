"""Models of the released shapes with random weights."""

import torch

from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM

BLOCK, MASK_ID, FILL_ID = 32, 5, 6  # tokens; ids
LONGEST = 4096  # keys of any measurement
_NAMES = ("d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size", "vocab_size")
_shape = lambda *sizes: dict(zip(_NAMES, sizes, strict=True))  # noqa: E731
# Both on LLaDA's module tree: what is measured is the shape. Of Dream the biases of q, k, v (1e-5
# of the weights) and the row before the block (one of 33) are left out.
RELEASED = {
    "LLaDA-8B": _shape(4096, 32, 32, 32, 12288, 126464),
    "Dream-7B": _shape(3584, 28, 4, 28, 18944, 152064),
}
TINY = {"tiny": _shape(64, 4, 2, 2, 96, 300)}


def shapes(small):
    """Name -> shape of the models to measure."""
    return TINY if small else RELEASED


def build(shape, device, dtype, length):
    """A model of that shape with random weights that keep activations at their size."""
    config = LLaDAConfig(
        **shape,
        embedding_size=shape["vocab_size"],
        max_sequence_length=length,
        mask_token_id=MASK_ID,
        eos_token_id=None,  # random weights may predict any id, and texts have one length
        pad_token_id=FILL_ID,
    )
    with torch.device("meta"):
        model = LLaDAModelLM(config).to(dtype).requires_grad_(False)
    model.to_empty(device=device)
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.normal_(0, weight.shape[1] ** -0.5)
        else:
            weight.fill_(1)
    return model.eval()


def prompt(batch, length, device, seed=1):
    """Random ids ``[batch, length]``, neither mask nor end."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(7, 290, (batch, length), generator=generator).to(device)
