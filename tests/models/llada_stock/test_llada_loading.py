"""LLaDA's released remote code as `AutoModel` loads it, on old and new Transformers."""

from pathlib import Path

import pytest
import transformers

import dpad
from dpad.models import hf
from tests.doubles import remote
from tests.generation.common import META, assert_close, logits
from tests.models.common import V5, load_remote

LOADING = Path(__file__).parents[3] / "docs" / "loading.md"


@pytest.fixture
def folder(checkpoint, weights):
    """A checkpoint folder whose code is the double."""
    auto = {"AutoConfig": "modeling_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"}
    config = {**META["config"], "model_type": "llada", "auto_map": auto, "use_cache": False}
    return checkpoint(remote.LLADA, config, weights)


@pytest.mark.skipif(V5, reason="the released code does not load by itself on transformers 5.x")
def test_loaded_remote_code_is_patched_and_saved(folder, tmp_path, ids):
    model = load_remote(folder)
    assert not isinstance(model, remote.llada(2).LLaDAModelLM)
    want = logits(model, ids)
    with dpad.patch(model):
        assert_close(logits(model, ids), want)
        model.save_pretrained(tmp_path / "saved")
    native = hf.AutoModel.from_pretrained(tmp_path / "saved")
    assert_close(logits(native, ids), want)


@pytest.mark.skipif(not V5, reason="transformers 4.57 loads the released code")
def test_load_errors_of_transformers_5_are_documented_with_their_cure(folder, weights, ids):
    page = LOADING.read_text()
    text = "'LLaDAModelLM' object has no attribute 'all_tied_weights_keys'"
    assert text in page
    with pytest.raises(AttributeError, match=text):
        load_remote(folder)
    fetch = transformers.dynamic_module_utils.get_class_from_dynamic_module
    code = fetch("modeling_llada.LLaDAModelLM", folder)
    code.all_tied_weights_keys = {}
    text = "tie_weights() got an unexpected keyword argument 'missing_keys'"
    assert text in page
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'missing_keys'"):
        load_remote(folder)
    # The cure: the class and its configuration, then the weights.
    model = code(code.config_class.from_pretrained(folder)).eval()
    model.load_state_dict(weights)
    text = "'LLaDAConfig' object has no attribute 'use_cache'"
    assert text in page
    with pytest.raises(AttributeError, match=text):
        model(ids)
    with dpad.patch(model):
        got = logits(model, ids)
    model.config.use_cache = False
    assert_close(got, logits(model, ids))
