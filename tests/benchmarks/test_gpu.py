"""`python -m benchmarks.gpu` as far as a machine without a GPU can tell: its stages."""

import json
import time

import pytest
import torch

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import figures, shapes, stages

pytest_plugins = ["pytester"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "required: --out"),
        (["--out", __file__], "is not a folder"),
        (["--out", "x", "--budget", "30"], "--budget 30: expected more than 30 seconds"),
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
    monkeypatch.setattr(program, "look_further", lambda: None)
    monkeypatch.setattr(program, "PACKAGES", "pytest no_such_a no_such_b")
    monkeypatch.setattr(program.shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert program.main(["--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert "not there: no_such_a, no_such_b, cmake, nvcc, a CUDA device" in shown
    assert not (tmp_path / "out").exists()


def test_programs_are_also_looked_for_beside_python_and_in_cuda(tmp_path, monkeypatch):
    for folder in ("scripts", "cuda/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("scripts/cmake", "cuda/bin/nvcc"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setattr(program.sys, "executable", str(tmp_path / "scripts" / "python"))
    assert {"cmake", "nvcc"} <= set(program.missing())
    program.look_further()
    assert not {"cmake", "nvcc"} & set(program.missing())


def test_a_build_that_fails_ends_the_visit(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "missing", lambda: [])
    monkeypatch.setattr(stages.machine, "cuda", lambda device: {"architecture": "90"})
    monkeypatch.setattr(stages, "BUILD", "-c raise(SystemExit(3))")
    assert program.main(["--out", str(tmp_path)]) == 1
    assert "the build has failed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]


SCRIPT = """
import os, sys, time
from pathlib import Path
import subprocess
name, place = sys.argv[1], Path(__file__).parent
with open(place / name, "a") as file:
    file.write("x")
print(name, *sys.argv[2:], os.environ.get("SEEN"), flush=True)
if name == "hanging":  # with a child that would outlive it
    code = f"import pathlib, time; time.sleep(4); pathlib.Path({str(place / 'child')!r}).touch()"
    subprocess.run([sys.executable, "-c", code])
if name == "crashing" and (place / name).read_text() == "x":
    os.abort()
sys.exit({"broken": 3, "late": 75}.get(name, 0))
"""
STAGES = """
import pytest
from benchmarks.gpu.stages import Stage, perform
COMMAND = "{python} {out}/script.py "
QUICK = {
    "first": Stage(60, COMMAND + "first {seconds} {small}", {"SEEN": "yes"}, 1),
    "broken": Stage(60, COMMAND + "broken", {}, 1),
    "long": Stage(600, COMMAND + "long", {}, 500),
    "late": Stage(60, COMMAND + "late", {}, 1),
    "absent": Stage(60, "no-such-program", {}, 1),
    "crashing": Stage(60, COMMAND + "crashing", {}, 1),
    "hanging": Stage(2, COMMAND + "hanging", {}, 1),
}
@pytest.mark.measured("{stage}", "stage", (), list(QUICK))
def test_stage(figures, stage):
    perform(QUICK[stage], figures)
"""
PLUGIN = ("-p", "benchmarks.gpu.conftest", "--small", "-p", "no:cacheprovider")


def records_of(path):
    return {record["case"]: record for record in json.loads(path.read_text())["cases"]}


def test_a_visit_goes_on_after_failures_and_continues_what_was_left_out(pytester):
    pytester.makepyfile(script=SCRIPT, test_stages=STAGES)
    command = [*PLUGIN, "--figures", "stages.json", "test_stages.py", "--seconds"]
    begun = time.monotonic()
    assert pytester.runpytest(*command, "400").ret == figures.INCOMPLETE
    took = time.monotonic() - begun
    found = records_of(pytester.path / "stages.json")
    assert list(found) == ["first", "broken", "long", "late", "absent", "crashing", "hanging"]
    assert figures.failed(found["first"]) is None and found["first"]["took"] < 60
    assert "exit status 3 broken" in found["broken"]["problem"]
    assert "s are too little" in found["long"]["skipped"]
    assert found["late"]["skipped"] == figures.NO_TIME
    assert "No such file" in found["absent"]["skipped"]
    assert figures.failed(found["crashing"]) is None
    assert (pytester.path / "crashing").read_text() == "xx"
    assert "stopped after 2 s" in found["hanging"]["problem"]
    log = (pytester.path / "log.txt").read_text()
    assert log.startswith("first 40 --small yes\nbroken None\n")
    runs = lambda: [len((pytester.path / n).read_text()) for n in ("first", "broken", "late")]  # noqa: E731
    assert runs() == [1, 1, 1] and not (pytester.path / "long").exists()
    assert pytester.runpytest(*command, "5000").ret == figures.INCOMPLETE
    assert runs() == [1, 2, 2] and (pytester.path / "long").exists()
    assert list(records_of(pytester.path / "stages.json")) == list(found)
    time.sleep(max(0.0, 7 - took))
    assert not (pytester.path / "child").exists()  # what a stage has started ends with it


def test_the_stages_of_a_visit():
    assert {"memcheck", "racecheck", "initcheck", "synccheck"} <= set(stages.STAGES)
    names = [word for stage in stages.STAGES.values() for word in stage.command.split()]
    files = {word.removeprefix("benchmarks/gpu/") for word in names if "/test_" in word}
    assert files == {path.name for path in stages.ROOT.glob("benchmarks/gpu/test_*.py")}
    for folder in ("tests/ops", "tests/generation", "tests/decode", "tests/artefacts"):
        assert folder in names and (stages.ROOT / folder).is_dir()
    first = list(stages.STAGES)[:3]
    assert first == ["operators", "memcheck", "step_times"]


def test_one_stage_from_the_command_line(tmp_path, capfd):
    assert program.main(["--out", str(tmp_path), "--small", "-k", "gaps"]) == 0
    assert list(records_of(tmp_path / "stages.json")) == ["gaps"]
    found = records_of(tmp_path / "figures.json")
    assert found["gap, torch add_, 4 x 64"]["seconds"] > 0
    assert "## gap" in (tmp_path / "summary.md").read_text()
    assert "test_stage[gaps]" in capfd.readouterr().out


def test_the_sanitizers_shapes(capsys):
    assert shapes.main("cpu") == 0
    assert "block_attention  bfloat16" in capsys.readouterr().out
