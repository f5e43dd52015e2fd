"""Every option is looked at: what it takes, in all the forms of a number, and what it refuses."""

import fractions
import math
import random
import re

import numpy
import pytest
import torch
from transformers import GenerationConfig

import dpad
from dpad.generation import fields
from dpad.generation.config import FIELDS, DPadGenerationConfig
from dpad.generation.names import NEAREST
from dpad.values import options_of

FLAGS = [n for n, kind in fields.KINDS.items() if kind is fields.flag]
WHOLE = {
    "max_new_tokens": 32,
    "block_length": 8,
    "sub_block_length": 4,
    "steps": 16,
    "top_k": 5,
    "micro_batch": 2,
    "num_return_sequences": 3,
    "refresh_period": 4,
    "look_back": 2,
    "seed": 7,
    "mask_token_id": 9,
    "eos_token_id": 4,
    "pad_token_id": 6,
}
REAL = {
    "confidence_threshold": 0.5,
    "factor": 1.5,
    "entropy_bound": 0.25,
    "alg_temp": 0.5,
    "eps": 0.125,
    "temperature": 0.75,
    "top_p": 0.5,
    "cfg_scale": 1.5,
}
SUFFIX = {"window": 64, "near": 4, "decay": 3.5, "density": 0.25}


def test_the_tables_of_this_file_are_complete():
    others = {
        "alg",
        "commit",
        "length",
        "edit",
        "refine",
        "remask",
        "remasking",
        "refresh",
        "suffix",
        "cache",
        "compatible",
        "row_keys",
    }
    assert set(FIELDS) == {*FLAGS, *WHOLE, *REAL, *others}
    assert len(FLAGS) == 8


def in_every_form(value):
    kind = numpy.int64 if isinstance(value, int) else numpy.float64
    yield from (value, kind(value), numpy.array(value), torch.tensor(value))
    yield torch.tensor(value, dtype=torch.int32 if isinstance(value, int) else torch.float64)


@pytest.mark.parametrize(("name", "value"), [*WHOLE.items(), *REAL.items()])
def test_numbers_of_other_libraries_are_kept_as_pythons(name, value):
    for given in in_every_form(value):
        config = DPadGenerationConfig(**{name: given})
        assert getattr(config, name) == value and type(getattr(config, name)) is type(value)
        assert DPadGenerationConfig(**config.to_dict()) == config
    config.to_json_string()


@pytest.mark.parametrize("name", SUFFIX)
def test_suffix_fields_take_them_too(name):
    for given in in_every_form(SUFFIX[name]):
        suffix = dpad.Suffix(**{name: given})
        assert suffix == dpad.Suffix(**{name: SUFFIX[name]})
        assert type(getattr(suffix, name)) is type(SUFFIX[name])
    for given in (True, numpy.bool_(True), torch.tensor(True)):
        assert dpad.Suffix(keep_last=given).keep_last is True


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_true_or_false(name):
    for given in (True, numpy.bool_(True), torch.tensor(True)):
        assert getattr(DPadGenerationConfig(**{name: given}), name) is True
    for bad in ("no", "false", 1, 0, 2.0, [], torch.ones(2)):
        with pytest.raises(ValueError, match=f"^{name} = .*: expected True or False$"):
            DPadGenerationConfig(**{name: bad})


NO_WHOLE = (1.5, 32.0, "8", True, numpy.bool_(True), [8], torch.tensor([8]), torch.tensor(8.0),
            fractions.Fraction(8), 2**63, -(2**63) - 1, 10**5000, math.nan)  # fmt: skip
NO_REAL = ("0.5", True, [0.5], torch.tensor([0.5]), math.nan, math.inf, -math.inf, 10**5000, -0.5,
           1j, torch.tensor(0.5, device="meta"))  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_no_whole_number_is_named(name):
    for bad in NO_WHOLE:
        if name == "eos_token_id" and isinstance(bad, (list, torch.Tensor)) and bad == [8]:
            continue  # a list of ids
        if name == "eos_token_id" and getattr(bad, "shape", None) == (1,):
            continue
        with pytest.raises(ValueError, match=rf"^{name}\b.* = .*: expected ") as found:
            DPadGenerationConfig(**{name: bad})
        assert options_of(found.value) == (name,)


@pytest.mark.parametrize("name", REAL)
def test_what_is_no_number_is_named(name):
    for bad in NO_REAL:
        with pytest.raises(ValueError, match=rf"^{name} = .*: expected a ") as found:
            DPadGenerationConfig(**{name: bad})
        assert options_of(found.value) == (name,)


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        ("alg", ["entropy"]),
        ("alg", 3),
        ("remasking", ["random"]),
        ("refresh", ["full"]),
        ("refresh", True),
        ("compatible", ["llada"]),
        ("compatible", True),
        ("cache", ["none"]),
        ("cache", 1),
        ("row_keys", [1.5]),
        ("row_keys", "12"),
        ("row_keys", 3),
        ("row_keys", [True]),
        ("row_keys", torch.tensor([0.5])),
        ("eos_token_id", "x"),
        ("eos_token_id", []),
        ("eos_token_id", [2, "x"]),
        ("eos_token_id", -1),
        ("suffix", 3),
        ("suffix", ["gaussian"]),
        ("suffix", {"kind": "gaussian", "windw": 3}),
        ("suffix", "gauss"),
    ],
)
def test_other_values_are_named(option, bad):
    with pytest.raises(ValueError, match=option.replace("suffix", "[Ss]uffix")) as found:
        DPadGenerationConfig(**{option: bad})
    assert options_of(found.value) == (option,)


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("kind", ["all"]),
        ("window", 2**40),
        ("window", "8"),
        ("window", True),
        ("near", 2**40),
        ("near", 1.5),
        ("keep_last", 3),
        ("keep_last", "no"),
        ("decay", "x"),
        ("scale", "x"),
        ("density", "x"),
        ("count", "x"),
        ("count", 2**40),
        ("decay", math.nan),
        ("scale", math.inf),
        ("grid", None),
    ],
)
def test_suffix_fields_are_named(field, bad):
    with pytest.raises(ValueError, match=rf"^Suffix\.{field} = .*: expected ") as found:
        dpad.Suffix(**{field: bad})
    assert options_of(found.value) == (f"Suffix.{field}",)
    with pytest.raises(ValueError, match=re.escape(str(found.value))) as whole:
        DPadGenerationConfig(suffix={field: bad})
    assert options_of(whole.value) == ("suffix",)


@pytest.mark.parametrize("seed", range(60))
def test_a_refusal_knows_the_options_that_it_is_about(llada, prompts, seed):
    """Of random options, each of which is taken alone."""
    rng = random.Random(seed)
    values = {
        "steps": [1, 12], "confidence_threshold": [0.9], "factor": [1.5], "entropy_bound": [0.2],
        "commit": ["klass", "prophet"], "alg": ["entropy", "ancestral"], "alg_temp": [0.5],
        "remasking": ["random"], "remask": ["cap"], "refine": [0.25], "edit": [0.9],
        "length": ["daedal"], "compatible": ["dream", "sdar", "rnd1"], "refresh": ["recent"],
        "refresh_period": [2], "look_back": [2], "sub_block_length": [2], "infill": [True],
        "output_history": [True], "cache": ["none", "dual"], "temperature": [0.0, 1.0],
    }  # fmt: skip
    refused = 0
    for _ in range(20):
        names = rng.sample(list(values), rng.randint(2, 4))
        given = {name: rng.choice(values[name]) for name in names}
        try:
            dpad.generate(llada, prompts[:1], max_new_tokens=12, block_length=4, **given)
        except ValueError as error:
            about, text = options_of(error), str(error)
            assert about and set(about) & {*given, "input_ids"}, (given, text)
            # Its message names them, and in this order.
            places = [text.find(n) for n in about if n != "input_ids"]
            assert places == sorted(places) and -1 not in places, (about, text)
            refused += 1
    assert refused


@pytest.mark.parametrize(
    ("name", "size"),
    [("max_new_tokens", 2**40), ("steps", 2**40), ("steps", 2 * 10**9),
     ("num_return_sequences", 2**40)],
)  # fmt: skip
def test_sizes_that_no_memory_holds_are_refused_by_name(llada, prompts, name, size):
    with pytest.raises(ValueError, match=rf"{name} = {size}: expected a whole number from 1 to"):
        dpad.generate(llada, [prompts[0]], **{name: size})


def test_forms_of_an_option_agree():
    for given in ("gaussian", {"kind": "gaussian"}, dpad.Suffix()):
        assert DPadGenerationConfig(suffix=given).suffix == dpad.Suffix("gaussian")
    assert [DPadGenerationConfig(cache=c).cache for c in (True, False)] == ["prefix", "none"]
    for given in ([3, 4], (3, 4), numpy.array([3, 4]), torch.tensor([3, 4])):
        config = DPadGenerationConfig(eos_token_id=given, row_keys=given)
        assert config.eos_token_id == config.row_keys == [3, 4]


def test_a_refused_update_changes_nothing():
    config = DPadGenerationConfig(steps=8, temperature=0.5)
    before = config.to_dict()
    for bad in ({"temperature": 0.1, "factor": 1.0}, {"temperature": 0.2, "abc": 1}):
        with pytest.raises((TypeError, ValueError)):
            config.update(**bad)
        assert config.to_dict() == before
    assert config.given() == {"steps": 8, "temperature": 0.5}


def test_switches_of_transformers():
    greedy = {"temperature": 0.0}
    assert DPadGenerationConfig(do_sample=False).given() == greedy
    assert DPadGenerationConfig(do_sample=True, temperature=0.5).given() == {"temperature": 0.5}
    assert DPadGenerationConfig(use_cache=True, cache="dual").given() == {"cache": "dual"}
    assert DPadGenerationConfig(use_cache=False).given() == {"cache": "none"}
    for bad, words in (
        ({"do_sample": True}, "pass temperature= above 0"),
        ({"do_sample": False, "temperature": 0.5}, "do_sample = False and temperature = 0.5"),
        ({"use_cache": False, "cache": "dual"}, "use_cache = False and cache = 'dual'"),
        ({"do_sample": "no"}, "do_sample = 'no': expected True or False"),
        ({"use_cache": 1}, "use_cache = 1: expected True or False"),
    ):
        with pytest.raises(ValueError, match=words):
            DPadGenerationConfig(**bad)


def test_an_unknown_option_says_what_stands_nearest(llada, prompts):
    for name, cure in NEAREST.items():
        with pytest.raises(TypeError) as error:
            dpad.generate(llada, [prompts[0]], **{name: 3})
        assert f"unknown option {name!r} = 3: " in str(error.value) and cure in str(error.value)


def test_a_plain_configuration_is_translated(llada, prompts):
    options = {"max_new_tokens": 12, "block_length": 4, "seed": 3, "steps": 6}
    shared = {"max_new_tokens": 12, "eos_token_id": 5}
    sampled = GenerationConfig(**shared, do_sample=True, temperature=0.7, top_k=9)
    rest = {n: v for n, v in options.items() if n not in shared}
    for given, same in (
        (GenerationConfig(**shared), shared),
        (sampled, {**shared, "temperature": 0.7, "top_k": 9}),
    ):
        found = dpad.generate(llada, [prompts[0]], generation_config=given, **rest)
        assert torch.equal(found, dpad.generate(llada, [prompts[0]], **rest, **same))
    with pytest.raises(TypeError, match="MinPLogitsWarper"):
        dpad.generate(llada, [prompts[0]], generation_config=GenerationConfig(min_p=0.1))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"kept_suffix": [[12.5], []]}, ValueError, "expected positions, which are whole numbers"),
        ({"kept_suffix": [[True], []]}, ValueError, "expected positions, which are whole numbers"),
        ({"kept_suffix": [["x"], []]}, ValueError, "kept_suffix of row 0, block 0"),
        ({"kept_suffix": 3}, ValueError, "kept_suffix = 3: expected lists of positions"),
        ({"kept_suffix": "12"}, ValueError, "kept_suffix = '12'"),
        ({"noise": 3}, TypeError, "noise = 3: expected a function"),
        ({"confidences": [0.5]}, TypeError, "confidences = [0.5]: expected a function"),
    ],
)
def test_what_is_supplied_is_looked_at_first(llada, prompts, options, error, words):
    state = torch.get_rng_state()
    with pytest.raises(error) as found:
        dpad.generate(llada, [prompts[0]], max_new_tokens=12, block_length=8, **options)
    assert words in str(found.value)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["noise", "confidences"])
def test_supplied_draws_are_looked_at_when_they_come(llada, prompts, name):
    def call(drawn, **options):
        short = {"max_new_tokens": 8, "block_length": 8, "temperature": 1.0, "seed": 3}
        short |= {"remasking": "random"} if name == "confidences" else {}
        return dpad.generate(llada, [prompts[0]], **{name: drawn}, **short, **options)

    def shape(positions, x):
        return (len(positions), x) if name == "noise" else (len(positions),)

    for bad, words in (
        (lambda *a: None, f"{name} returned None"),
        (lambda rows, p, x: torch.full(shape(p, x), torch.nan), f"{name} returned NaN"),
        (lambda rows, p, x: torch.zeros(3), f"{name} returned shape [3]: expected a float64"),
        (lambda rows, p, x: torch.zeros(shape(p, x), dtype=torch.int64), "returned torch.int64"),
    ):
        with pytest.raises(ValueError) as error:
            call(bad)
        assert words in str(error.value)

    def draws(dtype):
        generator = torch.Generator().manual_seed(4)
        return lambda rows, p, x: torch.rand(shape(p, x), generator=generator).to(dtype)

    assert torch.equal(call(draws(torch.float32)), call(draws(torch.float64)))


def test_arguments_of_patch_are_looked_at(llada):
    for name in ("strict", "fuse_projections", "cuda_graphs"):
        with pytest.raises(TypeError, match=f"{name} = 'no': expected True or False"):
            dpad.patch(llada, **{name: "no"})
    assert "_dpad_handle" not in vars(llada)
    with pytest.raises(TypeError, match="strict = 0: expected True or False"):
        dpad.supports(llada, strict=0)
