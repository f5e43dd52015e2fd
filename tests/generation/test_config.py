"""DPadGenerationConfig, Suffix and presets."""

import copy
import dataclasses
import pickle

import pytest
from transformers import GenerationConfig

import dpad
from dpad.generation import presets
from dpad.generation.config import ALIASES, FIELDS, DPadGenerationConfig


def test_is_a_generation_config_with_the_same_defaults_everywhere():
    config = DPadGenerationConfig()
    assert isinstance(config, GenerationConfig)
    assert {n: getattr(config, n) for n in FIELDS} == FIELDS
    assert config.to_diff_dict() == {}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7},
        {"temperature": 1.0, "max_new_tokens": 64},
        {"suffix": dpad.Suffix("gaussian", window=64, decay=3.0, density=0.3, near=8)},
        {"suffix": dpad.Suffix("none"), "cache": "dual", "factor": 1.0},
        {"eos_token_id": [3, 4], "row_keys": [1, 2], "seed": 2**62, "early_stop": False},
    ],
)
def test_round_trips(tmp_path, options):
    config = DPadGenerationConfig(**options)
    config.save_pretrained(tmp_path)
    assert DPadGenerationConfig.from_pretrained(tmp_path) == config
    assert DPadGenerationConfig(**config.to_dict()) == config
    assert copy.deepcopy(config) == config


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_aliases(alias):
    value = True if FIELDS[ALIASES[alias]] is False or alias == "early_termination" else 1
    assert getattr(DPadGenerationConfig(**{alias: value}), ALIASES[alias]) == value


def test_fields_are_set_by_their_names_and_no_others(llada):
    config = DPadGenerationConfig()
    for alias, field in ALIASES.items():
        setattr(config, alias, getattr(config, field))
        assert alias in FIELDS or alias not in config.__dict__
    config.gen_length, config.threshold = 8, 0.5
    assert (config.max_new_tokens, config.confidence_threshold) == (8, 0.5)
    assert config.given() == {"max_new_tokens": 8, "confidence_threshold": 0.5}
    assert dpad.generate(llada, [[1]], generation_config=config).shape == (1, 9)
    before = dict(config.__dict__)
    for name in ("max_new_token", "stepz", "dual_cache"):
        with pytest.raises(TypeError, match=f"unknown option '{name}' = 4"):
            setattr(config, name, 4)
    assert config.__dict__ == before
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))


def test_unknown_names_are_refused():
    with pytest.raises(TypeError, match="num_beams"):
        DPadGenerationConfig(num_beams=5)
    config = DPadGenerationConfig()
    with pytest.raises(TypeError, match="temprature"):
        config.update(temprature=1.0)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"kind": "gauss"}, "kind = 'gauss'"),
        ({"window": 0}, "window = 0"),
        ({"kind": "uniform"}, "window = None"),
        ({"kind": "uniform", "window": 8}, "count = None"),
        ({"kind": "uniform", "window": 8, "count": 1.5}, "count = 1.5"),
        ({"kind": "window"}, "window = None"),
        ({"kind": "none", "window": 4}, "window = 4"),
        ({"scale": 1.0, "density": 0.5}, "scale"),
        ({"decay": 0.0}, "decay = 0.0"),
        ({"scale": -1.0}, "scale = -1.0"),
        ({"density": 1.5}, "density = 1.5"),
        ({"window": 8, "count": 9}, "count = 9"),
        ({"near": -1}, "near = -1"),
        ({"grid": "x"}, "grid = 'x'"),
    ],
)
def test_bad_suffixes_are_named(options, words):
    with pytest.raises(ValueError) as error:
        dpad.Suffix(**options)
    assert words in str(error.value)


def test_suffix_is_frozen_and_expects():
    suffix = dpad.Suffix("gaussian", window=256, decay=4.0, scale=2.0)
    assert abs(suffix.expected(1024) - 64.15) < 0.01
    assert (
        abs(dpad.Suffix("gaussian", window=64, density=0.25, decay=3.0).expected(500) - 16) < 0.01
    )
    assert dpad.Suffix("uniform", window=16, count=20).expected(18) == 18
    assert dpad.Suffix("all").expected(7) == 7 and dpad.Suffix("none").expected(7) == 0
    assert dpad.Suffix("none", near=3, keep_last=True).expected(9) == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        suffix.window = 3


def test_presets_are_the_published_settings():
    config = presets.get("llada-8b-instruct/gsm8k")
    assert (config.max_new_tokens, config.block_length, config.confidence_threshold) == (
        256,
        32,
        0.9,
    )
    assert (config.suffix.window, config.suffix.decay, config.suffix.scale) == (256, 4.0, 2.0)
    assert presets.get("llada-1.5/humaneval-sequential").steps == 512
    assert presets.get("llada-1.5/math", cache="prefix").cache == "prefix"
    ruled = presets.get("llada-1.5/math", max_denoising_steps=64)
    assert (ruled.steps, ruled.confidence_threshold, ruled.block_length) == (64, None, 32)
    for name in presets.names():
        assert presets.get(name).suffix.near == 0
    v2 = presets.get("fast-dllm-v2/harness")
    assert (v2.block_length, v2.sub_block_length, v2.confidence_threshold) == (32, 8, 0.9)
    assert presets.get("sdar/script", steps=4).confidence_threshold is None
    with pytest.raises(KeyError, match="llada-1.5/gsm8k"):
        presets.get("gsm8k")


def test_what_is_in_force(llada):
    merge = __import__("dpad.generation.api", fromlist=["merge"]).merge
    base = DPadGenerationConfig(temperature=0.5, steps=8)
    given = DPadGenerationConfig(temperature=0.0, factor=1.0)
    config = merge(llada, base, given, {"block_length": 4, "seed": None})
    assert (config.temperature, config.factor, config.steps, config.block_length) == (
        0.0,
        1.0,
        None,
        4,
    )
    safe = merge(llada, None, None, {})
    assert safe.suffix == dpad.Suffix("all") and safe.confidence_threshold is None
    llada.config._name_or_path = "GSAI-ML/LLaDA-8B-Instruct"
    tuned = merge(llada, None, None, {})
    assert tuned.confidence_threshold == 0.9 and tuned.suffix.decay == 4.0
    assert merge(llada, None, None, {"steps": 256}).confidence_threshold is None
