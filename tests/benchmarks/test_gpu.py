"""`python -m benchmarks.gpu` as far as a machine without a GPU can tell: steps, limits, results."""

import json
import time

import pytest
import torch

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import needs, shapes, steps


def test_parts_keep_their_limits():
    total = 0
    for part in steps.PARTS:
        limit = sum(s.limit for s in steps.STEPS if s.part == part) + steps.RESERVE
        assert limit <= steps.COMMAND_LIMIT
        total += limit
    assert total <= steps.TOTAL_LIMIT
    assert [s.part for s in steps.STEPS] == sorted(s.part for s in steps.STEPS)
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
        (["--out", "x", "--part", "1", "--budget", "99"], "--part and --budget exclude"),
        (["--out", "x", "--budget", "30"], "--budget 30: expected more than 30 seconds"),
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


def test_what_is_missing_is_said_before_anything_is_run(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "architecture", lambda: "90")
    monkeypatch.setattr(needs, "look_further", lambda: None)
    monkeypatch.setattr(needs, "PACKAGES", ("pytest", "no_such_a", "no_such_b"))
    monkeypatch.setattr(needs.shutil, "which", lambda name: None)
    assert program.main(["--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert "no_such_a, no_such_b, cmake: not installed" in shown and "-d wheels no_such_a" in shown
    assert "nvcc is neither on PATH nor in CUDA_HOME" in shown
    assert not (tmp_path / "out").exists()


def test_programs_are_also_looked_for_beside_python_and_in_cuda(tmp_path, monkeypatch):
    for folder in ("scripts", "cuda/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("scripts/cmake", "cuda/bin/nvcc"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setattr(needs.sys, "executable", str(tmp_path / "scripts" / "python"))
    assert needs.missing() is not None
    needs.look_further()
    assert needs.missing() is None


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
    assert steps.run(python("pass"), tmp_path, "90", report, left=3.9) == "skipped"
    assert report.steps["it"]["reason"] == "3 s are too little"


def test_an_incomplete_step_is_run_again(tmp_path):
    report = steps.Report(tmp_path)
    short = python(f"raise SystemExit({steps.INCOMPLETE})")
    assert steps.run(short, tmp_path, "90", report) == "incomplete"
    assert not report.done(short)
    assert steps.run(python("pass"), tmp_path, "90", report) == "passed"
    assert report.done(short)


def test_a_step_knows_the_time_it_has(tmp_path):
    report = steps.Report(tmp_path)
    told = python("raise SystemExit({seconds} - 30)")
    assert steps.run(told, tmp_path, "90", report) == "failed"
    assert report.steps["it"]["exit"] == 60 - steps.MARGIN - 30
    assert steps.run(told, tmp_path, "90", report, left=50.5) == "passed"
    assert report.steps["it"]["limit"] == 50


@pytest.fixture
def short_steps(monkeypatch):
    """A program of quick steps; how often each has run is in the file of its name."""
    count = "open(r'{out}/' + '%s', 'a').write('x')"
    made = [
        ("machine", {}, ""),
        ("build", {"again": True}, ""),
        ("operators", {"needs": ("build",)}, "; raise SystemExit('one failed')"),
        ("memcheck", {"least": 500}, ""),
        ("step_times", {}, ""),
    ]
    some = tuple(
        steps.Step(name, 1, 600, ("{python}", "-c", count % name + tail), **options)
        for name, options, tail in made
    )
    last = (steps.Step("summary", 0, 10, ("{python}", "-c", count % "summary")),)
    monkeypatch.setattr(steps, "STEPS", some)
    monkeypatch.setattr(steps, "LAST", last)
    for name in ("look_further", "missing"):
        monkeypatch.setattr(needs, name, lambda: None)
    monkeypatch.setattr(program, "architecture", lambda: "90")


def test_a_budget_leaves_out_what_does_not_fit_and_goes_on_there(short_steps, tmp_path):
    def runs(name):
        path = tmp_path / name
        return len(path.read_text()) if path.exists() else 0

    names = ("machine", "build", "operators", "memcheck", "step_times", "summary")
    command = ["--out", str(tmp_path), "--budget"]
    assert program.main([*command, "400"]) == 1
    assert [runs(n) for n in names] == [1, 1, 1, 0, 1, 1]
    report = json.loads((tmp_path / "report.json").read_text())
    assert "are too little" in report["memcheck"]["reason"]
    assert report["operators"]["status"] == "failed" and report["step_times"]["limit"] < 400
    assert program.main([*command, "590"]) == 0
    assert [runs(n) for n in names] == [1, 2, 1, 1, 1, 2]


def test_a_run_goes_on_after_a_failure_and_says_so(short_steps, tmp_path, capsys):
    assert program.main(["--out", str(tmp_path), "--part", "1"]) == 1
    shown = capsys.readouterr().out
    assert "machine: passed" in shown and "operators: failed" in shown and "one failed" in shown
    assert "step_times: passed" in shown and "summary: passed" in shown
    assert program.main(["--out", str(tmp_path), "--steps", "machine"]) == 0


def test_small_runs_only_what_a_cpu_can(tmp_path, monkeypatch):
    seen = []

    def run(step, out, arch, report, left, small):
        seen.append((step.name, step.filled(step.limit, out, arch, small)[0]))
        report.add(step.name, {"status": "passed"})
        return "passed"

    monkeypatch.setattr(steps, "run", run)
    assert program.main(["--out", str(tmp_path), "--small"]) == 0
    names = [name for name, _ in seen]
    figures = ["operator_times", "step_times", "generate_times", "measurements", "throughput"]
    assert names == ["machine", *figures, "summary", "plots"]
    assert seen[0][1][-2:] == [f"{tmp_path}/machine.json", "--small"]
    assert all("--small" in command and "cpu" in command for _, command in seen[1:6])


def test_the_sanitizers_shapes(capsys):
    assert shapes.main("cpu") == 0
    assert "block_attention  bfloat16" in capsys.readouterr().out
