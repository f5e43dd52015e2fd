"""What the tests of foreign packages share: an oracle on the model's own forward."""

import copy
from types import SimpleNamespace

import torch

import dpad
from dpad.models.adapter import unwrap
from tests.doubles import reference_decoder
from tests.generation.common import MASK_ID

NEW, BLOCK = 24, 8
# One token per step, the whole suffix: what `own_forward` decodes.
PLAIN = {
    "max_new_tokens": NEW,
    "block_length": BLOCK,
    "steps": NEW,
    "suffix": dpad.Suffix("all"),
    "early_stop": False,
    "compatible": "llada",
}
# A mode with all that dpad does: dropout, a cache, several tokens per step.
FAST = {
    "max_new_tokens": NEW,
    "block_length": BLOCK,
    "threshold": 0.6,
    "suffix": dpad.Suffix("window", window=12),
    "cache": "dual",
    "seed": 3,
}


def own_forward(model, ids):
    """Tokens of the plain decoder on the model's own, unpatched forward."""
    base = unwrap(model)
    assert "_dpad_handle" not in base.__dict__

    def predict(tokens):
        found = model(tokens).logits
        if type(base).__name__ == "DreamModel":  # row i - 1 predicts position i
            found = torch.cat((found[:, :1], found[:, :-1]), dim=1)
        return SimpleNamespace(logits=found)

    return reference_decoder.ordinary(predict, ids, NEW, mask_id=MASK_ID, block_length=BLOCK).tokens


def twin(model):
    """A deep copy, unpatched."""
    clone = copy.deepcopy(model)
    handle = getattr(clone, "_dpad_handle", None)
    if handle is not None:
        handle.remove()
    return clone
