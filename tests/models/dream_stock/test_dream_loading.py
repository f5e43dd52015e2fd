"""Dream's released remote code as `AutoModel` loads it, on old and new Transformers."""

import json
import sys

import pytest
import torch
import transformers

import dpad
from tests.doubles import dream_stock, remote
from tests.generation.common import DREAM, assert_close, logits
from tests.models.common import V5, load_remote
from tests.models.dream_stock.common import IDS, cure


@pytest.fixture
def folder(checkpoint, dream_weights):
    """A checkpoint folder whose code is the double."""
    auto = {"AutoConfig": "modeling_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"}
    config = {**DREAM["config"], "model_type": "Dream", "auto_map": auto}
    path = checkpoint(remote.DREAM, {**config, "architectures": ["DreamModel"]}, dream_weights)
    (path / "generation_config.json").write_text(json.dumps(IDS))
    return path


def test_loaded_remote_code_is_patched(folder, stock, ids, monkeypatch):
    """On 5.x only with the cures, and then its rotary buffers hold garbage."""
    want = logits(stock, ids)
    if V5:
        with pytest.raises(KeyError, match="default"):
            load_remote(folder)
        fetch = transformers.dynamic_module_utils.get_class_from_dynamic_module
        code = sys.modules[fetch("modeling_dream.DreamModel", folder).__module__]
        samplers = sys.modules[code.DreamGenerationConfig.__module__]
        cure(code, monkeypatch, samplers)
    model = load_remote(folder)
    assert not isinstance(model, dream_stock.DreamModel)
    assert type(model.generation_config).__name__ == "DreamGenerationConfig"
    with dpad.patch(model) as handle:
        assert_close(logits(model, ids), want)
        reported = [note for note in handle.notes if "reset_rope_parameters" in note]
        assert bool(reported) == (not torch.allclose(logits(stock, ids), handle_stock(model, ids)))
    model.reset_rope_parameters()
    assert logits(model, ids).equal(want)


def handle_stock(model, ids):
    """Logits of the stock forward under the patch, as its buffers are."""
    with torch.no_grad():
        return model._dpad_handle.stock_forward(ids).logits
