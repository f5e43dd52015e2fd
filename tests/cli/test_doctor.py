"""`dpad doctor`: what it reports, and that it notices what is wrong."""

import importlib.metadata

import pytest
import torch

from dpad import doctor, doctor_cases, memory, ops
from dpad.ops import _dispatch, reference

OPERATORS = set(reference.__all__) - {"gumbel"}
HELD = {"canvas": 1024, "weights": 80, "kv": 20, "pass": 30, "total": 130, "free": 900}
HELD |= {"measured": 135, "ratio": 1.04, "agrees": True}


@pytest.fixture(autouse=True)
def held(monkeypatch):
    """What a decoding took, which test_memory.py measures; returned to be changed."""
    found = dict(HELD)
    monkeypatch.setattr(memory, "check", lambda: found)
    return found


@pytest.fixture
def twins_as_kernels(monkeypatch):
    """Every operator has a "kernel": its twin. Returns the table, to spoil entries of."""
    table = {name: getattr(reference, name) for name in OPERATORS}
    monkeypatch.setattr(ops, "has_kernel", lambda op, device: True)
    monkeypatch.setattr(_dispatch, "_COMPILED", table)
    return table


def spoiled(rows):
    return {row["operator"] for row in rows if row["ok"] is not True}


def test_every_operator_has_cases_in_every_dtype():
    found = {}
    for case in doctor_cases.cases("cpu"):
        found.setdefault(case.operator, set()).add(case.dtype)
    assert set(found) == OPERATORS
    floating = {"rope_kv_write_", "block_attention", "add_rms_norm_", "swiglu", "confidence"}
    floating |= {"linear", "int8_linear", "route", "grouped_linear", "grouped_swiglu", "combine"}
    assert {name for name, dtypes in found.items() if dtypes != {None}} == floating
    assert all(found[name] == set(doctor_cases.DTYPES) for name in floating)
    on_gpu = {case.operator for case in doctor_cases.cases("cuda")}
    assert on_gpu == OPERATORS - set(doctor_cases.PLANNING)


def test_report_of_this_installation(run):
    result = run("doctor --json")
    found = result.json
    assert result.exit_code == 0
    assert found["ok"] is True
    assert found["seconds"] < 5
    assert found["versions"]["torch"] == torch.__version__
    assert set(found["modules"]) == {"_C", "_C_cuda", "_host"}
    rows = [row for row in found["operators"] if row["device"] == "cpu"]
    assert {row["operator"] for row in rows} == OPERATORS
    expected = ops.loaded("_C") or None
    assert {row["ok"] for row in rows} == {expected}
    if ops.loaded("_C"):
        assert found["cpu"]["isa"] in found["cpu"]["supported"]
        assert "portable" in found["cpu"]["supported"]
        assert ops.cpu_isa() == found["cpu"]["isa"]


def test_report_as_text(run):
    text = run("doctor").stdout
    assert torch.__version__ in text
    for name in OPERATORS:
        assert name in text
    assert "NOT OK" not in text


def spoil_return(twin):
    return lambda *args: twin(*args) * 1.05


def spoil_planning(twin):
    def kept_one_less(*args):
        kept, count = twin(*args)
        return kept, count - 1

    return kept_one_less


def spoil_write(twin):
    def writes_one_slot_too_many(*args):
        k_cache = args[10]
        out = twin(*args)
        k_cache[1, 0, 0, 0] += 1
        return out

    return writes_one_slot_too_many


def spoil_token(twin):
    def other_token(*args):
        token, *scores = twin(*args)
        return (token.where(token != token[0], token + 1), *scores)

    return other_token


def spoil_by_nan(twin):
    return lambda *args: twin(*args).fill_(float("nan"))


def spoil_by_raising(twin):
    def raises(*args):
        raise RuntimeError("dpad::unmask_: out of range")

    return raises


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("swiglu", spoil_return),
        ("suffix_sample", spoil_planning),
        ("rope_kv_write_", spoil_write),
        ("confidence", spoil_token),
        ("block_attention", spoil_by_nan),
        ("unmask_", spoil_by_raising),
    ],
)
def test_a_disagreement_is_found_and_fails_the_command(run, twins_as_kernels, name, spoil):
    assert spoiled(doctor.check_operators("cpu")) == set()
    twins_as_kernels[name] = spoil(twins_as_kernels[name])
    result = run("doctor --json")
    assert result.exit_code == 1
    assert result.json["ok"] is False
    assert spoiled(result.json["operators"]) == {name}
    text = run("doctor")
    assert text.exit_code == 1
    assert f"these operators disagree with their twin: {name}" in text.stdout
    if spoil is spoil_by_raising:
        assert "out of range" in text.stdout


def test_a_difference_within_rounding_is_none(twins_as_kernels):
    twins_as_kernels["swiglu"] = lambda gate, up: reference.swiglu(gate, up) * (1 + 1e-7)
    rows = [r for r in doctor.check_operators("cpu") if r["operator"] == "swiglu"]
    assert all(row["ok"] for row in rows)
    errors = {row["dtype"]: row["max_error"] for row in rows}
    assert errors["float32"] > 0


def test_without_kernels_nothing_is_claimed(run, monkeypatch):
    monkeypatch.setattr(ops, "has_kernel", lambda op, device: False)
    result = run("doctor --json")
    assert result.exit_code == 0
    assert {row["ok"] for row in result.json["operators"]} == {None}
    assert {row["where"] for row in result.json["operators"]} == {"plain torch"}


def test_the_unrelated_distribution_is_named(run, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        return "0.0.9" if name == "dpad" else real(name)

    assert not any("unrelated" in text for text in run("doctor --json").json["warnings"])
    monkeypatch.setattr(importlib.metadata, "version", version)
    result = run("doctor")
    assert result.exit_code == 0
    assert "unrelated distribution 'dpad' 0.0.9" in result.stdout


def test_an_instruction_set_that_is_not_there_is_reported(run, monkeypatch):
    def build_info():
        raise RuntimeError("dpad::cpu_isa: DPAD_ISA=mmx: expected portable, avx2 or avx512")

    monkeypatch.setattr(ops, "build_info", build_info)
    found = run("doctor --json").json
    assert found["cpu"]["isa"] is None
    assert any("DPAD_ISA=mmx" in text for text in found["warnings"])


def test_memory_that_was_counted_wrong_is_reported(run, held):
    assert run("doctor --json").json["memory"] == held == HELD
    assert "(weights 0, kv 0, pass 0); 0 MiB measured (1.04 times as much)" in run("doctor").stdout
    held.update(ratio=1.6, agrees=False)
    result = run("doctor")
    assert result.exit_code == 0
    assert "took 1.60 times the memory that was counted for it" in result.stdout
    held.update(measured=None, ratio=None, agrees=None)
    result = run("doctor")
    assert "cannot be measured here" in result.stdout and "warning: a decoding" not in result.stdout


def test_memory_for_a_model_of_ones_own(run, folder, tmp_path):
    found = run(f"doctor --model {folder} --canvas 300 --json").json["model"]
    assert found["canvas"] == 300 and found["fits"] is True
    assert found["total"] == found["weights"] + found["kv"] + found["pass"]
    assert f"{folder}, float32: a canvas of 300 takes" in run(
        f"doctor --model {folder} --canvas 300"
    ).stdout.replace("\n", " ")
    result = run(f"doctor --model {folder} --canvas 321")
    assert result.exit_code == 2 and "canvas = 321: the model takes 1 to 320" in result.stderr
    assert run(f"doctor --model {folder} --dtype int8").exit_code == 2
    assert run(f"doctor --model {tmp_path} --json").exit_code == 3
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert run(f"doctor --model {tmp_path}").exit_code == 3
