"""generation_config.json: written, read, and honoured without loss."""

import json

import pytest
import torch
from transformers import GenerationConfig

import dpad
from dpad.generation.api import merge
from dpad.generation.config import FIELDS
from dpad.generation.stored import FILE_NAME, stored_options
from tests.generation.common import EOS_ID

CONFIG = {
    "max_new_tokens": 12,
    "block_length": 4,
    "confidence_threshold": 0.6,
    "suffix": dpad.Suffix("gaussian", window=8, decay=3.0, density=0.5, near=2),
    "cache": "dual",
    "seed": 5,
}


def load(folder):
    return dpad.models.hf.AutoModel.from_pretrained(folder, dtype=torch.float32)


def in_force(model):
    """What was chosen, besides the defaults of a model that brings nothing along."""
    return {n: v for n, v in merge(model, None, None, {}).to_dict().items() if v != FIELDS[n]}


@pytest.mark.parametrize("options", [CONFIG, {"temperature": 1.0}, {"temperature": 0.0}])
def test_a_saved_model_keeps_what_was_chosen(llada, dream, tmp_path, prompts, options):
    for number, model in enumerate((llada, dream)):
        model.generation_config = dpad.DPadGenerationConfig(**options)
        folders = [tmp_path / f"{number}{n}" for n in "abc"]
        model.save_pretrained(folders[0])
        assert (folders[0] / FILE_NAME).is_file()
        loaded = load(folders[0])
        assert stored_options(loaded) == stored_options(model) == options
        assert in_force(loaded) == in_force(model)
        loaded.save_pretrained(folders[1])  # a loaded model writes it again
        assert stored_options(load(folders[1])) == options
        with dpad.patch(loaded) as handle:
            loaded.save_pretrained(folders[2])
            assert stored_options(load(folders[2])) == options
            assert ("dual" in repr(handle)) == ("cache" in options)
    model.save_pretrained(folders[0])  # twice into one folder
    assert stored_options(load(folders[0])) == options


def test_defaults_that_were_chosen_are_saved_too(tmp_path):
    config = dpad.DPadGenerationConfig(temperature=0.0, alg="entropy", early_stop=False)
    config.save_pretrained(tmp_path)
    loaded = dpad.DPadGenerationConfig.from_pretrained(tmp_path)
    assert loaded == config and loaded.given() == config.given()
    assert json.loads((tmp_path / FILE_NAME).read_text())["temperature"] == 0.0


def test_generate_honours_it_below_everything_else(llada, tmp_path, prompts):
    llada.generation_config = dpad.DPadGenerationConfig(**CONFIG)
    llada.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    expected = dpad.generate(llada, [prompts[0]])
    assert expected.shape[1] == len(prompts[0]) + 12
    assert torch.equal(dpad.generate(loaded, [prompts[0]]), expected)
    with dpad.patch(loaded):
        assert torch.equal(loaded.generate([prompts[0]]), expected)
    own = dpad.DPadGenerationConfig(max_new_tokens=6)
    with dpad.patch(loaded, dpad.DPadGenerationConfig(max_new_tokens=7, steps=7)):
        config = merge(loaded, loaded._dpad_handle.config, None, {})
        assert (config.steps, config.confidence_threshold, config.block_length) == (7, None, 4)
        assert loaded.generate([prompts[0]]).shape[1] == len(prompts[0]) + 7
        assert loaded.generate([prompts[0]], generation_config=own).shape[1] == len(prompts[0]) + 6
    assert dpad.generate(loaded, [prompts[0]], max_new_tokens=5).shape[1] == len(prompts[0]) + 5


def test_of_another_configuration_only_what_means_the_same_holds(llada, tmp_path):
    plain = in_force(llada)
    other = {"do_sample": True, "temperature": 0.7, "top_k": 20, "max_new_tokens": 9}
    llada.generation_config = GenerationConfig(**other, eos_token_id=[4, 5], pad_token_id=6)
    same = {"max_new_tokens": 9, "eos_token_id": [4, 5], "pad_token_id": 6}
    assert stored_options(llada) == same
    assert in_force(llada) == {**plain, **same}
    llada.save_pretrained(tmp_path)
    assert stored_options(load(tmp_path)) == same
    del llada.generation_config
    derived = GenerationConfig.from_model_config(llada.config)
    assert derived.eos_token_id == EOS_ID
    llada.generation_config = derived
    assert stored_options(llada) == {} and in_force(llada) == plain


def test_a_file_of_somebody_else_holds_with_and_without_a_patch(llada, tmp_path):
    llada.save_pretrained(tmp_path)
    (tmp_path / FILE_NAME).write_text(json.dumps({"max_new_tokens": 9, "eos_token_id": 4}))
    model, same = load(tmp_path), {"max_new_tokens": 9, "eos_token_id": 4}
    assert stored_options(model) == same
    with dpad.patch(model):
        assert stored_options(model) == same
        model.generation_config.max_new_tokens = 11  # of what was derived
        assert stored_options(model) == {**same, "max_new_tokens": 11}


def test_what_is_derived_follows_the_configuration(llada):
    with dpad.patch(llada):
        derived = llada.generation_config
        assert llada.generation_config is derived
        for ids in (4, [4, 5]):
            llada.config.eos_token_id = ids
            assert llada.generation_config.eos_token_id == ids
        llada.config.eos_token_id.append(6)
        assert llada.generation_config.eos_token_id == [4, 5, 6]
        assert stored_options(llada) == {}


def test_bad_files_are_named(llada, tmp_path, prompts):
    llada.save_pretrained(tmp_path)
    model, path = load(tmp_path), tmp_path / FILE_NAME
    assert not path.exists() and stored_options(model) == {}
    for text, words in (
        ('{"block_length": 4, "blok": 3}', "unknown option 'blok' = 3"),
        ('{"block_length": 0}', "block_length = 0"),
        ("[]", "expected an object"),
        ("{", "Expecting"),
        ("[" * 50_000, "recursion"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=FILE_NAME) as error:
            dpad.generate(model, [prompts[0]])
        assert words in str(error.value)
    path.unlink()
    dpad.generate(model, [prompts[0]], max_new_tokens=4)


def test_update_tells_options_from_inputs_of_the_model():
    config = dpad.DPadGenerationConfig(temperature=0.3)
    mask = torch.ones(1, 2)
    assert config.update(attention_mask=mask, steps=4) == {"attention_mask": mask}
    assert config.steps == 4
    assert config.update(defaults_only=True, temperature=0.9, num_beams=1, eos_token_id=3) == {}
    assert config.temperature == 0.3 and config.eos_token_id is None and config.num_beams == 1
