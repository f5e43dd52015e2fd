"""What the tests of model classes share: random weights, and remote code loaded as it is."""

import torch
import transformers

V5 = int(transformers.__version__.split(".")[0]) >= 5


@torch.no_grad()
def spread_out(model):
    """The model with random matrices whose logits are far from flat."""
    generator = torch.Generator().manual_seed(5)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(0, weight.shape[-1] ** -0.5, generator=generator)
    return model


def load_remote(folder):
    return transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
