"""Models of the released shapes with random weights."""

import torch

from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM

BLOCK, MASK_ID, FILL_ID = 32, 5, 6  # tokens; ids
# Both on LLaDA's module tree: what is measured is the shape. Of Dream the biases of q, k, v (1e-5
# of the weights) and the row before the block (one of 33) are left out.
RELEASED = {
    "LLaDA-8B": {
        "d_model": 4096,
        "n_heads": 32,
        "n_kv_heads": 32,
        "n_layers": 32,
        "mlp_hidden_size": 12288,
        "vocab_size": 126464,
    },
    "Dream-7B": {
        "d_model": 3584,
        "n_heads": 28,
        "n_kv_heads": 4,
        "n_layers": 28,
        "mlp_hidden_size": 18944,
        "vocab_size": 152064,
    },
}
SMALL = {"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 96}
TINY = {"tiny": {**SMALL, "vocab_size": 300}}


def shapes(small, names=None):
    """Name -> shape of the models to measure."""
    found = TINY if small else RELEASED
    return found if small or names is None else {name: found[name] for name in names}


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
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LLaDAModelLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data.normal_(0, weight.shape[1] ** -0.5)
    return model.to(device=device, dtype=dtype).requires_grad_(False)


def dtype_of(small):
    """float32 at the small shape: there outputs are compared closely."""
    return torch.float32 if small else torch.bfloat16


def prompt(batch, length, device, seed=1):
    """Random ids ``[batch, length]``, neither mask nor end."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(7, 290, (batch, length), generator=generator).to(device)
