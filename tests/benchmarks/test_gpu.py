"""`python -m benchmarks.gpu` as far as a machine without a GPU can tell: steps, limits, results."""

import json
import time

import pytest
import torch

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import cases, ops, plots, shapes, step, steps


def test_parts_keep_their_limits():
    for part in steps.PARTS:
        assert sum(s.limit for s in steps.STEPS if s.part == part) <= steps.COMMAND_LIMIT
    assert sum(s.limit for s in steps.STEPS) <= steps.TOTAL_LIMIT
    assert len(set(steps.NAMES)) == len(steps.STEPS)
    for s in steps.STEPS:
        assert set(s.needs) <= set(steps.NAMES)
    assert set(steps.SANITIZERS) <= set(steps.NAMES)


def test_the_list_shows_every_step(capsys):
    assert program.main(["--list"]) == 0
    shown = capsys.readouterr().out
    for s in steps.STEPS:
        assert f"{s.name:16}  {s.limit:5} s" in shown


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--out is missing"),
        (["--out", __file__], "is not a folder"),
        (["--out", "x", "--part", "9"], "invalid choice: 9"),
        (["--out", "x", "--steps", "bake"], "invalid choice: 'bake'"),
        (["--out", "x", "--part", "1", "--steps", "build"], "exclude each other"),
        (["--out", "x", "--wheels", "nowhere"], "holds no wheel"),
    ],
)
def test_bad_arguments(arguments, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        program.main(arguments)
    assert end.value.code == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_a_device_nothing_is_done(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert program.main(["--out", str(tmp_path / "out")]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def python(code, limit=60, **options):
    return steps.Step("it", 1, limit, ("{python}", "-c", code), **options)


def test_a_step_is_recorded_with_its_output(tmp_path):
    report = steps.Report(tmp_path)
    code = "import os; print(os.environ['SEEN'], '{out}'); raise SystemExit(int('{arch}') - 90)"
    environment = (("SEEN", "sm_{arch}"),)
    assert steps.run(python(code, environment=environment), tmp_path, "90", report) == "passed"
    assert steps.run(python(code, environment=environment), tmp_path, "93", report) == "failed"
    record = json.loads((tmp_path / "report.json").read_text())["it"]
    assert (record["status"], record["exit"], record["limit"]) == ("failed", 3, 60)
    assert record["output"] == f"sm_93 {tmp_path}\n"
    assert record["command"].startswith("SEEN=sm_93 {python} -c")
    assert (tmp_path / "log.txt").read_text().count("=== it:") == 2
    assert steps.Report(tmp_path).steps == report.steps  # a later part goes on from there


def test_a_step_and_what_it_started_end_at_the_limit(tmp_path):
    child = "import time, pathlib; time.sleep(4); pathlib.Path(r'{out}/late').touch()"
    start = f"s.run([sys.executable, '-c', '''{child}'''])"
    code = f"import subprocess as s, sys; print(1, flush=True); {start}"
    begun = time.monotonic()
    status = steps.run(python(code, limit=2), tmp_path, "90", steps.Report(tmp_path))
    assert status == "timed out" and time.monotonic() - begun < 4
    time.sleep(max(0.0, 5 - (time.monotonic() - begun)))
    assert not (tmp_path / "late").exists()
    assert json.loads((tmp_path / "report.json").read_text())["it"]["output"] == "1\n"


def test_skipped_steps_say_why(tmp_path):
    report = steps.Report(tmp_path)
    missing = steps.Step("tool", 1, 5, ("no-such-program",))
    assert steps.run(missing, tmp_path, "90", report) == "skipped"
    assert "no-such-program" in report.steps["tool"]["output"]
    after = steps.Step("after", 1, 5, ("true",), needs=("tool",))
    assert steps.run(after, tmp_path, "90", report) == "skipped"
    assert report.steps["after"]["reason"] == "tool has not passed"


def test_a_run_goes_on_after_a_failure_and_says_so(tmp_path, monkeypatch, capsys):
    good = steps.Step("machine", 1, 30, ("{python}", "-c", "print('fine')"))
    bad = steps.Step("build", 1, 30, ("{python}", "-c", "raise SystemExit('no compiler')"))
    last = steps.Step("plots", 3, 30, ("{python}", "-c", "pass"), needs=("build",))
    monkeypatch.setattr(steps, "STEPS", (good, bad, last))
    monkeypatch.setattr(program, "architecture", lambda: "90")
    assert program.main(["--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "machine: passed" in shown and "build: failed" in shown and "no compiler" in shown
    found = json.loads((tmp_path / "report.json").read_text())
    assert {n: r["status"] for n, r in found.items()} == {
        "machine": "passed",
        "build": "failed",
        "plots": "skipped",
    }
    monkeypatch.setattr(steps, "STEPS", (good,))
    assert program.main(["--out", str(tmp_path), "--steps", "machine"]) == 0


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Both benchmarks on the CPU with small shapes."""
    out = tmp_path_factory.mktemp("gpu")
    small = ["--device", "cpu", "--small", "--repeats", "2", "--json"]
    with torch.inference_mode():
        assert ops.main([*small, str(out / "operators.json")]) == 0
    try:
        assert step.main([*small, str(out / "step.json"), "--batches", "2", "--keys", "48"]) == 0
    finally:
        torch.set_grad_enabled(True)
    return out


def test_operator_figures(measured):
    found = json.loads((measured / "operators.json").read_text())
    names = {c["name"].split()[0] for c in found["cases"]}
    every = {"suffix_gather", "rope_kv_write_", "block_attention", "add_rms_norm_", "swiglu"}
    assert names == every | {"confidence", "unmask_"}
    for case in found["cases"]:
        assert case["seconds"]["dpad"]["median"] > 0 and case["floor"] > 0
        if case["best_peer"] is not None:
            peer = case["seconds"][case["best_peer"]]["median"]
            assert case["speed_up"] == pytest.approx(peer / case["seconds"]["dpad"]["median"])


def test_step_figures(measured):
    (cell,) = json.loads((measured / "step.json").read_text())["models"]["tiny"]
    assert (cell["batch"], cell["keys"]) == (2, 48)
    assert set(cell["blocks"]) == {"1", "2", "4", "8"}
    assert cell["blocks"]["1"]["dpad"] > cell["blocks"]["8"]["dpad"]


def test_plots(measured):
    assert plots.main(measured) == 0
    for name in ("operators.png", "step.png"):
        assert (measured / name).read_bytes().startswith(b"\x89PNG")
    assert plots.main(measured / "nowhere") == 1


def test_a_wrong_result_is_not_timed():
    wrong = cases.Case("it", {"dpad": lambda: torch.ones(3)}, lambda: torch.zeros(3), 12, 0.1)
    record = ops.measure(wrong, None, 1e9, 2)
    assert record == {"name": "it", "problem": "dpad: error 1.0e+00, allowed 0.0e+00"}
    assert "NOT TIMED" in ops.line(record)


def test_the_sanitizers_shapes(capsys):
    assert shapes.main("cpu") == 0
    assert "block_attention  bfloat16" in capsys.readouterr().out
