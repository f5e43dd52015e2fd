"""The measurements of `benchmarks.gpu`, on the CPU at small shapes."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

import dpad
from benchmarks import cases, random_models
from benchmarks.gpu import (
    conftest,
    figures,
    models,
    plain,
    stages,
    summary,
    test_gaps,
    test_generate,
    test_operators,
    test_step,
)
from benchmarks.gpu.floor import Limits, pass_floor
from tests.doubles import follower as following
from tests.doubles.plain_llada import Published

pytest_plugins = ["pytester"]

HERE = Path(figures.__file__).parent
NAMES = Path(__file__).with_name("gpu_measurements.txt")
QUIET = ("-q", "-p", "no:cacheprovider")


def records_of(path):
    return {record["case"]: record for record in json.loads(path.read_text())["cases"]}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with all figures, of the CPU."""
    out = tmp_path_factory.mktemp("gpu")
    command = [*QUIET, str(HERE), "--small", "--figures", str(out / "figures.json")]
    with mock.patch.object(torch.cuda, "is_available", lambda: False):
        assert pytest.main(command) == 0
    return out


def by_kind(measured, kind):
    return [r for r in records_of(measured / "figures.json").values() if r["kind"] == kind]


def names_of(*arguments):
    """Of the measurements that pytest collects, at the released shapes."""
    found = []

    class Names:
        def pytest_collection_finish(self, session):
            found.extend(conftest.name_of(item) for item in session.items)

    assert pytest.main([*QUIET, *arguments, "--collect-only"], plugins=[Names()]) == 0
    return sorted(found)


def test_no_measurement_is_lost():
    wanted = NAMES.read_text().splitlines()
    assert names_of(str(HERE)) == wanted and len(wanted) == len(set(wanted))


def test_every_measurement_belongs_to_one_stage(monkeypatch):
    monkeypatch.chdir(stages.ROOT)
    commands = [s.command.split() for s in stages.STAGES.values() if "{small}" in s.command]
    found = []
    for command in commands:
        found += names_of(*command[command.index("60") + 1 :])
    assert sorted(found) == NAMES.read_text().splitlines()


@pytest.mark.slow(reason="every measurement at small shapes")
def test_operator_figures(measured):
    found = by_kind(measured, "operator")
    names = {r["name"].split()[0] for r in found}
    every = {"suffix_gather", "rope_kv_write_", "block_attention", "add_rms_norm_", "swiglu"}
    assert names == every | {"confidence", "unmask_", "route", "combine", "routed"}
    for record in found + by_kind(measured, "attention"):
        assert record["seconds"]["dpad"]["median"] > 0 and record["floor"] > 0
        if record["best_peer"] is not None:
            peer = record["seconds"][record["best_peer"]]["median"]
            assert record["speed_up"] == pytest.approx(peer / record["seconds"]["dpad"]["median"])


def test_step_figures(measured):
    (cell,) = by_kind(measured, "step")
    assert (cell["model"], cell["batch"], cell["keys"]) == ("tiny", 2, 48)
    plain_time, graph = (cell["seconds"][n] for n in ("step, plain torch", "step, graph"))
    assert cell["speed_up"] == pytest.approx(plain_time / graph)
    kinds = ("graph", "graph, fused", "eager", "plain torch")
    wanted = {f"step, {kind}" for kind in kinds}
    assert set(cell["seconds"]) == wanted | {"refresh", "refresh, fused", "refresh, plain torch"}


def test_decoding_figures(measured):
    (equal,), (followed,) = (by_kind(measured, kind) for kind in ("equal_tokens", "followed"))
    assert equal["tokens"] == 512 and not any(equal["different"].values())
    assert followed["decisions"] == followed["same"] == test_generate.NEW
    timed = by_kind(measured, "generate")
    assert [c["per_step"] for c in timed] == [8, 1]
    for case in timed:
        assert case["forwards"] == test_generate.NEW // case["per_step"]
        assert case["same_tokens"] == 1.0  # float32 at this shape
    rates = by_kind(measured, "throughput")
    assert [(c["per_step"], c["batch"]) for c in rates] == [(1, 1), (1, 2), (4, 1), (4, 2)]
    for case in rates:
        tokens = case["batch"] * case["new_tokens"]
        assert case["tokens_per_second"] == pytest.approx(tokens / case["seconds"]["dpad"])


def test_recent_refreshes_have_lower_floors(measured):
    full, recent = by_kind(measured, "throughput_of_long_answers")
    assert (full["refresh"], recent["refresh"]) == ("full", "recent")
    assert full["forwards"] == recent["forwards"] == 16 and recent["floor"] < full["floor"]
    (recent,), (whole,) = by_kind(measured, "recent"), by_kind(measured, "refresh")
    assert (recent["rows"], recent["keys"]) == (64, 96)
    assert set(recent["seconds"]) == {"eager", "graph"} < set(whole["seconds"])


def test_a_floor_is_the_sum_of_its_passes():
    shape, limits = random_models.TINY["tiny"], Limits(1e9, None, "test")
    one = lambda rows, keys: pass_floor(shape, limits, [(1, rows, keys)], 32)  # noqa: E731
    whole = test_generate.floor(shape, limits, 1, 128, 8)
    assert whole == pytest.approx(2 * (one(128, 128) + 3 * one(32, 128)))
    # Blocks at 32, 64 and 96 see 16 positions behind them; the second and third look back.
    recent = test_generate.floor(shape, limits, 1, 128, 16, 96, 16, back=True)
    wanted = one(80, 80) + one(80, 112) + one(64, 128)
    wanted += one(32, 80) + one(32, 112) + one(32, 128)
    assert recent == pytest.approx(wanted)


def test_every_expectation_has_records(measured):
    found = records_of(measured / "figures.json").values()
    gone = {r["case"]: figures.failed(r) for r in found if figures.failed(r) is not None}
    assert gone == {test_gaps.DEPENDENT: "no CUDA device"}
    kinds = {"launches", "linear", "attention", "gap", "sampler", "refresh", "narrow", "mixed"}
    assert kinds <= {r["kind"] for r in found}
    (launches,), (mixed,) = by_kind(measured, "launches"), by_kind(measured, "mixed")
    assert launches["profiled"]["plain torch"]["operators"] > 100
    assert mixed["floor"]["mixed"] < mixed["floor"]["refresh"] + mixed["floor"]["steps"]
    assert len(by_kind(measured, "linear")) == 15 and len(by_kind(measured, "narrow")) == 4


def test_summary(measured):
    assert summary.main([str(measured)]) == 0
    text = re.sub(" +", " ", (measured / "summary.md").read_text())
    for words in ("| tiny, 2 x 48 keys |", "swiglu 3 x 192", "not measured"):
        assert words in text
    assert "the sampler's kernel" not in text  # tiny shapes meet no goal


MODULE = """
from signal import pause
import pytest, torch
SIZES = ["good", "odd", "large", "last"]
@pytest.mark.measured("{name}", "name", SIZES, SIZES, least=6)
def test_it(record, name):
    record["seconds"] = 1.0
    if name == "odd":
        raise ValueError("odd")
    if name == "large":
        raise torch.OutOfMemoryError("too large")
    if name == "lost":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
@pytest.mark.measured("differs", least=6)
def test_problem(record):
    record.update(seconds=2.0, problem="logits differ")
"""


@pytest.fixture
def program(pytester):
    """A function that runs `MODULE`, changed; it gives the exit status and the records."""
    path = pytester.path / "it.json"

    def run(*changes, seconds="inf"):
        text = MODULE
        for change in changes:
            text = text.replace(*change)
        pytester.makepyfile(test_it=text)
        options = ("-p", "benchmarks.gpu.conftest", "--small", "--figures", path)
        result = pytester.runpytest(*QUIET, *options, "--seconds", seconds, "test_it.py")
        return int(result.ret), records_of(path)

    return run


def test_a_measurement_that_fails_loses_nothing(program):
    status, found = program()
    assert status == 1 and list(found) == ["good", "odd", "large", "last", "differs"]
    assert found["odd"]["problem"] == "ValueError: odd"
    assert "does not fit into memory" in found["large"]["skipped"]
    assert found["differs"] | {"took": 0} == {
        "case": "differs", "kind": "problem", "seconds": 2.0, "problem": "logits differ", "took": 0,
    }  # fmt: skip
    assert found["last"]["seconds"] == 1.0 and figures.failed(found["last"]) is None


def test_after_the_device_was_lost_nothing_is_begun(program):
    status, found = program(('"large", ', '"lost", '))
    assert status == 1 and "illegal memory access" in found["lost"]["problem"]
    assert found["last"]["skipped"] == "the device was lost in lost"
    assert found["differs"]["skipped"] == "the device was lost in lost"


def test_without_time_nothing_is_begun(program):
    later = ('"differs", least=6', '"differs", least=2000')
    status, found = program(('"large", ', ""), later, seconds="1000")
    assert status == figures.INCOMPLETE
    assert found["differs"]["skipped"] == "no time left" and found["last"]["seconds"] == 1.0


FIXED = ('"seconds"] = 1.0', '"seconds"] = 3.0'), ('"odd":', '"never":')


@pytest.mark.parametrize("commit", ["same", "other"])
def test_a_program_goes_on_with_what_was_left_out(program, pytester, commit):
    program()
    path = pytester.path / "it.json"
    if commit == "other":
        content = json.loads(path.read_text())
        content["machine"]["commit"] = "0" * 40
        path.write_text(json.dumps(content))
    status, found = program(*FIXED)
    assert status == 1  # one differs still
    kept = 1.0 if commit == "same" else 3.0
    assert (found["good"]["seconds"], found["odd"]["seconds"]) == (kept, 3.0)
    assert "problem" not in found["odd"]


def test_what_ended_the_process_is_tried_again_last(program):
    crash = ('raise ValueError("odd")', "pytest.exit('x', returncode=9)")
    status, found = program(crash)
    assert status == 9 and list(found) == ["good", "odd"]
    assert found["odd"]["problem"] == figures.STOPPED
    status, found = program(crash)
    assert status == 9 and found["odd"]["problem"] == figures.STOPPED
    assert found["last"]["seconds"] == 1.0 and found["differs"]["seconds"] == 2.0


def test_what_hangs_ends_the_process(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the process runs elsewhere
    pytester.makepyfile(test_it=MODULE.replace('raise ValueError("odd")', "pause()"))
    options = ("-p", "benchmarks.gpu.conftest", "--small", "--figures", "it.json")
    result = pytester.runpytest_subprocess(*QUIET, *options, "--patience", "3", "test_it.py")
    assert result.ret == -signal.SIGALRM
    found = records_of(pytester.path / "it.json")
    assert list(found) == ["good", "odd"] and found["odd"]["problem"] == figures.STOPPED


def test_figures_need_a_file_and_a_device(pytester, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pytester.makepyfile(test_it=MODULE)
    command = ("-p", "benchmarks.gpu.conftest", "test_it.py")
    for more, text in (((), "--figures is missing"), (("--figures", "x"), "no CUDA device")):
        result = pytester.runpytest(*command, *more)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*{text}*"])


def test_a_wrong_result_is_not_timed_and_a_wrong_peer_is_not_there():
    def refuses():
        raise RuntimeError("no such backend\nmore")

    zeros, ones = torch.zeros(3), torch.ones(3)
    functions = {"dpad": lambda: ones, "off": lambda: zeros, "absent": refuses}
    right = cases.Case("it", functions, lambda: ones, 0.1)
    right.check()
    assert set(right.functions) == {"dpad"}
    assert right.unavailable["absent"] == "RuntimeError: no such backend more"
    assert "difference: 1.0" in right.unavailable["off"]
    assert "up to 0.1 allowed" in right.unavailable["off"]


@pytest.mark.parametrize("value", [0.8, float("nan"), 1])
def test_a_wrong_result_of_ours_is_not_timed(value):
    found = torch.full((3,), value)
    case = cases.Case("it", {"dpad": lambda: found}, lambda: torch.full_like(found, 2), 0.0)
    with pytest.raises(AssertionError):
        test_operators.measure(case, None, None, 1e9, 2)


@pytest.fixture(scope="module")
def traced():
    """A tiny model, and what `generate` made of a prompt."""
    model = models.build(random_models.TINY["tiny"], "cpu", torch.float32, 128)
    ids = models.prompt(1, 32, "cpu")
    with dpad.patch(model):
        out = model.generate(ids, trace=True, **test_generate.options(64, 4))
        yield model, ids, out


def test_a_follower_takes_the_same_path(traced):
    model, ids, out = traced
    follower = following.Follower(out.trace, 32)
    canvas = plain.decode(model, ids, 64, 4, choose=follower)
    assert torch.equal(canvas, out.sequences)
    assert follower.record() == {"decisions": 64, "same": 64, "worst_gap": 0.0}


@pytest.mark.parametrize("what", ["token", "cache"])
def test_a_follower_sees_other_decisions(traced, what, monkeypatch):
    model, ids, out = traced
    trace = SimpleNamespace(events=[dict(e) for e in out.trace.events])
    if what == "token":
        trace.events[3]["tokens"] = [t + 1 for t in trace.events[3]["tokens"]]
    else:  # K is rotated as if it lay elsewhere
        rotate = Published._rotate
        turned = lambda s, x, cos, sin: rotate(s, x, cos.flip(-2), sin.flip(-2))  # noqa: E731
        monkeypatch.setattr(Published, "_rotate", turned)
    follower = following.Follower(trace, 32)
    plain.decode(model, ids, 64, 4, choose=follower)
    record = follower.record()
    assert record["worst_gap"] > following.ALLOWED and "of the largest logit" in record["problem"]


def step_of_the_tiny_model():
    shape = random_models.TINY["tiny"]
    model = models.build(shape, "cpu", torch.float32, 64)
    with torch.no_grad():
        return test_step.measure(model, shape, Limits(1e9, None, "test"), 1, 48, 2)


def test_the_step_that_differs_is_a_problem(monkeypatch):
    wrong = lambda self, whole=False: -self.step.logits()  # noqa: E731
    monkeypatch.setattr(plain.PlainStep, "logits", wrong)
    record = step_of_the_tiny_model()
    assert "logits differ" in record["problem"] and record["seconds"]["step, graph"] > 0


def test_a_partner_that_does_not_fit_costs_only_itself(monkeypatch):
    def full(self):
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(plain.PlainStep, "refresh", full)
    record = step_of_the_tiny_model()
    assert record["seconds"]["step, graph, fused"] > 0 and "does not fit" in record["plain_torch"]
    assert "speed_up" not in record and "problem" not in record


def test_dependent_launch_without_its_tools(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match="nvcc is not installed"):
        test_gaps.launcher("90", tmp_path)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_dependent_launch_compiles_and_says_what_fails(tmp_path):
    launch, data = test_gaps.launcher("90", tmp_path), torch.zeros(1024)
    if torch.cuda.is_available():
        data = data.cuda()
        test_gaps.queue(launch, data, 1024, True)
        assert data.sum() == 1024
    else:  # the module was built and loaded, and ran into the missing device
        assert b"CUDA" in launch(None, data.data_ptr(), 0, 1024, True)
