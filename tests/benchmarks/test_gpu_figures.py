"""The measuring programs of `benchmarks.gpu`, on the CPU at small shapes."""

import json
import shutil
import time
from types import SimpleNamespace

import pytest
import torch

import dpad
from benchmarks.gpu import (
    cases,
    follow,
    generate,
    measure_kernels,
    measurements,
    models,
    ops,
    plain,
    plots,
    results,
    step,
    steps,
    summary,
)
from benchmarks.gpu.floor import Limits

SMALL = ["--device", "cpu", "--small", "--repeats", "2", "--json"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with the results of all programs."""
    out = tmp_path_factory.mktemp("gpu")
    assert ops.main([*SMALL, str(out / "operators.json")]) == 0
    assert step.main([*SMALL, str(out / "step.json")]) == 0
    assert generate.main([*SMALL, str(out / "generate.json")]) == 0
    assert generate.main([*SMALL, str(out / "throughput.json"), "--throughput"]) == 0
    assert measurements.main([*SMALL, str(out / "measurements.json")]) == 0
    return out


def content(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.slow(reason="every case of the operators")
def test_operator_figures(measured):
    found = content(measured, "operators")["cases"]
    names = {c["name"].split()[0] for c in found}
    every = {"suffix_gather", "rope_kv_write_", "block_attention", "add_rms_norm_", "swiglu"}
    assert names == every | {"confidence", "unmask_", "route", "combine"}
    for case in found:
        assert case["seconds"]["dpad"]["median"] > 0 and case["floor"] > 0
        if case["best_peer"] is not None:
            peer = case["seconds"][case["best_peer"]]["median"]
            assert case["speed_up"] == pytest.approx(peer / case["seconds"]["dpad"]["median"])


def test_step_figures(measured):
    (cell,) = content(measured, "step")["cases"]
    assert (cell["model"], cell["batch"], cell["keys"]) == ("tiny", 2, 48)
    assert set(step.line(cell).split(": ", 1)[1].split(" ms")[0].split()) == {
        "floor",
        f"{1e3 * cell['floor']:.2f}",
    }
    plain_time, graph = (cell["seconds"][n] for n in ("step, plain torch", "step, graph"))
    assert cell["speed_up"] == pytest.approx(plain_time / graph)


def test_decoding_figures(measured):
    equal, followed, *timed = content(measured, "generate")["cases"]
    assert equal["tokens"] == 512 and not any(equal["different"].values())
    assert followed["decisions"] == followed["same"] == generate.NEW
    assert [c["per_step"] for c in timed] == [8, 1]
    for case in timed:
        assert case["forwards"] == generate.NEW // case["per_step"]
        assert case["same_tokens"] == 1.0  # float32 at this shape
    rates = content(measured, "throughput")["cases"]
    assert [(c["per_step"], c["batch"]) for c in rates] == [(1, 1), (1, 2), (4, 1), (4, 2)]
    for case in rates:
        tokens = case["batch"] * case["new_tokens"]
        assert case["tokens_per_second"] == pytest.approx(tokens / case["seconds"]["dpad"])


def test_every_measurement_has_records_and_an_answer(measured):
    found = content(measured, "measurements")
    assert {c["measurement"] for c in found["cases"]} == set(range(1, 9))
    assert not [c for c in found["cases"] if "problem" in c]
    assert [a["number"] for a in found["answers"]] == list(range(1, 9))
    launches = next(c for c in found["cases"] if c["measurement"] == 1)
    assert launches["profiled"]["plain torch"]["operators"] > 100
    mixed = next(c for c in found["cases"] if c["measurement"] == 8)
    assert mixed["floor"]["mixed"] < mixed["floor"]["refresh"] + mixed["floor"]["steps"]


def test_plots_and_summary(measured):
    assert plots.main(measured) == 0
    for name in ("operators.png", "step.png", "generate.png"):
        assert (measured / name).read_bytes().startswith(b"\x89PNG")
    assert plots.main(measured / "nowhere") == 1
    assert summary.main([str(measured)]) == 0
    text = (measured / "summary.md").read_text()
    for words in ("| tiny | 2 x 48 |", "swiglu 3 x 192", "not measured", "The sampler's kernel"):
        assert words in text
    assert len(content(measured, "goals")) == 7


def test_figures_of_a_cpu_become_no_document(measured, capsys):
    with pytest.raises(SystemExit):
        summary.main([str(measured), "--document", str(measured / "document.md")])
    assert "without a GPU" in capsys.readouterr().err
    assert not (measured / "document.md").exists()


def test_a_wrong_result_is_not_timed_and_a_wrong_peer_is_not_there():
    def refuses():
        raise RuntimeError("no such backend\nmore")

    zeros, ones = torch.zeros(3), torch.ones(3)
    functions = {"dpad": lambda: ones, "off": lambda: zeros, "absent": refuses}
    right = cases.Case("it", functions, lambda: ones, 12, 0.1)
    assert right.check() is None
    assert set(right.functions) == {"dpad"}
    missing = {"off": "error 1.0e+00, allowed 1.0e-01", "absent": "no such backend"}
    assert right.unavailable == missing
    wrong = cases.Case("it", {"dpad": lambda: ones}, lambda: zeros, 12, 0.1)
    record = ops.measure(wrong, None, None, 1e9, 2)
    assert record["problem"] == "dpad: error 1.0e+00, allowed 0.0e+00"


@pytest.fixture
def found(tmp_path):
    options = SimpleNamespace(json=tmp_path / "it.json", device="cpu", seconds=None, small=True)
    options.resume = True
    return results.Results(options)


def test_a_case_that_fails_loses_nothing(found, capsys):
    def fails():
        raise ValueError("odd")

    def full():
        raise torch.OutOfMemoryError("too large\nmore")

    found.case("good", lambda: {"seconds": 1.0})
    assert found.status == 0
    assert found.made("thing", fails) is None and found.status == 1
    assert found.case("large", full)["skipped"] == "does not fit into memory: too large"
    found.case("last", lambda: {"seconds": 2.0})
    assert found.status == 1
    kept = json.loads(found.path.read_text())["cases"]
    assert [c["name"] for c in kept] == ["good", "thing", "large", "last"]
    assert kept[1]["problem"] == "ValueError: odd" and kept[3]["seconds"] == 2.0
    assert "thing: PROBLEM, ValueError: odd" in capsys.readouterr().out


def test_after_the_device_was_lost_nothing_is_begun(found):
    def lost():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    found.case("first", lost)
    assert found.case("next", lambda: {})["skipped"] == "the device was lost in first"
    assert found.made("model", lambda: 1) is None


def test_without_time_nothing_is_begun(found):
    found.end = time.monotonic() + 7
    assert "skipped" not in found.case("short", lambda: {}, least=5)
    assert found.status == 0
    assert found.case("long", lambda: {}, least=8)["skipped"] == "no time left"
    assert found.status == results.INCOMPLETE == steps.INCOMPLETE


@pytest.mark.parametrize("commit", ["same", "other"])
def test_a_program_goes_on_with_what_was_left_out(found, commit):
    def fails():
        raise ValueError("odd")

    found.case("first", lambda: {"name": "shown", "seconds": 1.0})
    found.case("second", fails)
    if commit == "other":
        found.machine["commit"] = "0" * 40
        found.write()
    options = SimpleNamespace(json=found.path, device="cpu", seconds=None, small=True, resume=True)
    again = results.Results(options)
    again.case("first", lambda: {"seconds": 2.0})
    again.case("second", lambda: {"seconds": 3.0})
    assert again.status == 0
    assert [c["seconds"] for c in again.cases] == [1.0 if commit == "same" else 2.0, 3.0]
    options.resume = False
    assert results.Results(options).case("first", lambda: {"seconds": 4.0})["seconds"] == 4.0


@pytest.mark.parametrize("value", ["1", "0"])
def test_bad_repeats(value, capsys, tmp_path):
    with pytest.raises(SystemExit):
        step.main(["--json", str(tmp_path / "x.json"), "--repeats", value])
    assert f"--repeats {value}: expected at least 2" in capsys.readouterr().err


@pytest.fixture(scope="module")
def traced():
    """A tiny model, its adapter, and what `generate` made of a prompt."""
    model = models.build(models.TINY["tiny"], "cpu", torch.float32, 128)
    ids = models.prompt(1, 32, "cpu")
    with dpad.patch(model) as handle:
        out = model.generate(ids, trace=True, **follow.options(96, 64, 4))
        yield handle.adapter, ids, out


def test_a_follower_takes_the_same_path(traced):
    adapter, ids, out = traced
    follower = follow.Follower(out.trace, 32)
    canvas = plain.decode(adapter, ids, 64, 4, follower)
    assert torch.equal(canvas, out.sequences)
    assert follower.record() == {"decisions": 64, "same": 64, "worst_gap": 0.0}


@pytest.mark.parametrize("what", ["token", "cache"])
def test_a_follower_sees_other_decisions(traced, what, monkeypatch):
    adapter, ids, out = traced
    trace = SimpleNamespace(events=[dict(e) for e in out.trace.events])
    if what == "token":
        trace.events[3]["tokens"] = [t + 1 for t in trace.events[3]["tokens"]]
    else:  # K is rotated as if it lay elsewhere
        rotate = plain.Plain.rotate
        monkeypatch.setattr(plain.Plain, "rotate", lambda s, x, p: rotate(s, x, p.flip(0)))
    follower = follow.Follower(trace, 32)
    plain.decode(adapter, ids, 64, 4, follower)
    record = follower.record()
    assert record["worst_gap"] > follow.ALLOWED and "of the largest logit" in record["problem"]


def test_the_step_that_differs_is_a_problem(monkeypatch):
    wrong = lambda self, whole=False: -self.step.logits()  # noqa: E731
    monkeypatch.setattr(step.PlainStep, "logits", wrong)
    shape = models.TINY["tiny"]
    adapter = step.find_adapter(models.build(shape, "cpu", torch.float32, 64))
    with torch.no_grad():
        record = step.measure(adapter, shape, Limits(1e9, None, "test"), 1, 48, 2)
    assert "logits differ" in record["problem"] and record["seconds"]["step, graph"] > 0


def test_a_partner_that_does_not_fit_costs_only_itself(monkeypatch):
    def full(self):
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(step.PlainStep, "refresh", full)
    shape = models.TINY["tiny"]
    adapter = step.find_adapter(models.build(shape, "cpu", torch.float32, 64))
    with torch.no_grad():
        record = step.measure(adapter, shape, Limits(1e9, None, "test"), 1, 48, 2)
    assert record["seconds"]["step, graph, fused"] > 0 and "does not fit" in record["plain_torch"]
    assert "speed_up" not in record and "problem" not in record


def test_dependent_launch_without_its_tools(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "nvcc is not installed" in measure_kernels.dependent_launch("90")["skipped"]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_dependent_launch_compiles_and_says_what_fails():
    record = measure_kernels.dependent_launch("90")
    if torch.cuda.is_available():
        assert record["microseconds"]["small, plain"] > 0
    else:  # the program was built, and ran into the missing device
        assert "cuda" in record["problem"]
