"""`python -m benchmarks.run` with small numbers: what it writes, and that it goes on."""

import json
import re

import pytest

from benchmarks import cells, large, machine, measure, random_models, report, run
from dpad import Suffix
from dpad.demo import MASK_ID
from tests.doubles.reference_decoder import reference

ARGUMENTS = """--problems 4 --slow-problems 2 --ordinary-problems 1 --pair-rounds 1 --batch 2
--canvases 32 48 --main 32 --threads 1 --groups arm pair suffix chain dream"""
SMALL = ARGUMENTS.split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert run.main([*SMALL, "--out", str(out)]) == 0
    return out


def files(out):
    return {p.name: p.stat().st_mtime_ns for p in out.glob("*/*.json")}


@pytest.mark.slow(reason="runs every table of the benchmarks once")
def test_every_cell_is_a_file_with_its_circumstances(finished):
    names = {name.removesuffix(".json") for name in files(finished)}
    suffixes, caches, stops = ("full", "dropout"), ("none", "prefix", "dual"), ("all", "stop")
    main = {f"32-{s}-{c}-{e}" for s in suffixes for c in caches for e in stops}
    other = {f"48-{s}-none-{e}" for s in suffixes for e in stops}
    assert {f"arm-{n}" for n in main | other} | {f"pair-{n}" for n in main} <= names
    assert {"chain-32", "chain-48", "dream-32-ordinary", "dream-32-early-stop"} <= names
    assert sum(n.startswith("suffix-32-") for n in names) == len(cells.SUFFIXES)
    record = json.loads(next(finished.glob("*/pair-32-full-dual-stop.json")).read_text())
    assert {"cpu", "cores", "threads", "isa", "torch", "commit", "command"} <= set(
        record["machine"]
    )
    assert record["machine"]["threads"] == 1
    assert record["settings"]["cache"] == "dual"
    assert list(finished.glob("*"))
    assert (finished / "summary.md").exists()


def test_the_reference_is_checked_for_equal_tokens(finished):
    everything = {p.stem: json.loads(p.read_text()) for p in finished.glob("*/*.json")}
    pairs = [r["result"] for r in everything.values() if r["settings"]["kind"] == "pair"]
    assert len(pairs) == 12
    for result in pairs:
        assert result["rows"] == 2
        assert result["identical"] == 2
        assert all(s > 0 for who in result["seconds"].values() for s in who)
    chain = everything["chain-48"]["result"]
    assert chain["identical"] == {"none": 1, "prefix": 1, "dual": 1}
    assert chain["arms"]["ordinary"]["forwards"] == 48
    assert chain["arms"]["ordinary"]["positions"] == 48 * (25 + 48)
    for cache in ("none", "prefix", "dual"):
        ours, theirs = (chain["arms"][f"{who}, {cache}"] for who in ("dpad", "dropout"))
        assert ours["positions"] == theirs["positions"]
        assert ours["forwards"] == theirs["forwards"]


def test_a_second_run_measures_nothing_again(finished, monkeypatch):
    before = files(finished)

    def refuse(*_):
        raise AssertionError("measured again")

    for name in ("accuracy", "pair", "chain", "ordinarily"):
        monkeypatch.setattr(cells, name, refuse)
    run.main([*SMALL, "--out", str(finished)])
    assert files(finished) == before
    with pytest.raises(AssertionError, match="measured again"):
        run.main([*SMALL, "--out", str(finished), "--fresh"])
    with pytest.raises(AssertionError, match="measured again"):
        run.main([*SMALL, "--out", str(finished), "--seed", "3"])


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    arguments = [*SMALL, "--groups", "suffix", "--out", str(tmp_path)]
    real, calls = cells.accuracy, []

    def interrupted(tiny, canvas, arm, *rest):
        calls.append(arm)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(tiny, canvas, arm, *rest)

    monkeypatch.setattr(cells, "accuracy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.main(arguments)
    assert len(files(tmp_path)) == 2
    assert not list(tmp_path.glob("*/*.partial"))
    run.main(arguments)
    assert len(calls) == 3 + len(cells.SUFFIXES) - 2


def test_the_summary_shows_arms_intervals_factors_and_goals(finished):
    page = re.sub(" +", " ", (finished / "summary.md").read_text())  # cells are padded
    for text in (
        "## Goals, canvas 32",
        "ordinary loop / dpad, batch 1 | >= 10.0",
        "## Accuracy and cost, canvas 48",
        "| dropout-none-stop | 4 |",
        "nearest 8, then gaussian a 1.6",
        "kernels (dpad, cache dual)",
        "identical to the reference's, by cache: none 1 of 1, prefix 1 of 1, dual 1 of 1",
    ):
        assert text in page
    rows = [line for line in page.splitlines() if line.startswith("| full-none-all | 4 |")]
    assert len(rows) == 1
    assert rows[0].count("[") == 1  # an interval, and no difference to itself


def test_paired_differences_use_the_problems_that_both_arms_solved():
    assert report.points([True, False, True, True], [True, True]).startswith("-50.0")


def test_large_cell_checks_tokens_and_splits_passes(monkeypatch):
    monkeypatch.setattr(large, "CONFIG", {**large.CONFIG, "n_layers": 1, "d_model": 32})
    model = random_models.build(large.CONFIG)
    found = large.measure(model, 64, large.DROPOUT, "dual", 1, lambda: None)
    assert found["identical"] == 1
    for who in ("dpad", "all", "block"):
        seconds = {kind: values[0] for kind, values in found["seconds"][who].items()}
        assert 0 < seconds["step"] < seconds["total"]
        assert 0 < seconds["refresh"] < seconds["total"]


def test_kept_sets_are_dpad_s_own_draws():
    tiny = measure.Tiny(1, 0)
    arm = measure.Arm(Suffix("gaussian", window=40, near=2), "prefix", False)
    out, _ = tiny.solve(slice(0, 1), 96, arm, [7])
    kept = measure.kept_sets(arm.suffix, 0, 7, 25, 96)
    assert [kept(b).tolist() for b in range(3)] == [k.tolist() for k in out.kept_suffix[0]]
    assert measure.kept_sets(Suffix("all"), 0, 7, 25, 96) is None


def test_the_ordinary_arm_is_the_stock_model(monkeypatch):
    tiny = measure.Tiny(1, 0)
    assert not hasattr(tiny.stock, "_dpad_handle")
    out, _ = tiny.solve_ordinarily(slice(0, 1), 32)
    rule = {"mask_id": MASK_ID, "rule": ("quota", None), "block_length": measure.BLOCK}
    assert out.tokens.equal(reference(tiny.stock, tiny.ids(slice(0, 1)), 32, **rule).tokens)


def test_machine_tags_are_folder_names():
    where = {"cpu": "Some(R) CPU @ 2.00GHz", "cores": 2, "threads": 1, "isa": "none: no module"}
    assert machine.tag(where) == "some-r-cpu-2-00ghz-2-cores-1-threads-none"
    assert machine.describe()["command"]
