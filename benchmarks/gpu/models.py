"""What is measured: random models of the released shapes, and prompts for them."""

import torch

from benchmarks import random_models

BLOCK, MASK_ID, FILL_ID = 32, 5, 6  # tokens; ids
LONGEST = 4096  # keys of any measurement


def shapes(small):
    """Name -> shape of the models to measure."""
    return random_models.TINY if small else random_models.RELEASED


def build(shape, device, dtype, length):
    """A random model; without an end id, for it may predict any and texts have one length."""
    ids = {"mask_token_id": MASK_ID, "eos_token_id": None, "pad_token_id": FILL_ID}
    sizes = {"embedding_size": shape["vocab_size"], "max_sequence_length": length}
    return random_models.build({**shape, **ids, **sizes}, dtype, device)


def prompt(batch, length, device, seed=1):
    """Random ids ``[batch, length]``, neither mask nor end."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(7, 290, (batch, length), generator=generator).to(device)
