"""Floors, goals, expectations and the summary of `benchmarks.gpu`, from made-up records."""

import json
import re

import pytest

from benchmarks import random_models
from benchmarks.gpu import floor, goals, summary

LLADA, DREAM = random_models.RELEASED["LLaDA-8B"], random_models.RELEASED["Dream-7B"]
H100 = floor.Limits(*floor.DATASHEET["H100"], "datasheet", "H100")
H200 = floor.Limits(*floor.DATASHEET["H200"], "datasheet", "H200")


@pytest.mark.parametrize(
    ("shape", "limits", "groups", "rows", "ms"),
    [
        (LLADA, H100, [(1, 32, 1024)], 32, 4.69),
        (LLADA, H100, [(1, 32, 4096)], 32, 5.17),
        (LLADA, H200, [(1, 32, 1024)], 32, 3.27),
        (LLADA, H100, [(16, 32, 4096)], 512, 18.13),
        (DREAM, H100, [(1, 32, 1024)], 32, 4.29),
        (LLADA, H100, [(1, 1024, 1024)], 32, 15.31),
        (DREAM, H200, [(1, 2048, 2048)], 32, 28.93),
        (LLADA, H100, [(1, 1024, 1024), (3, 32, 1024)], 128, 17.2),
    ],
)
def test_floors_are_those_of_the_roofline(shape, limits, groups, rows, ms):
    assert 1e3 * floor.pass_floor(shape, limits, groups, rows) == pytest.approx(ms, abs=0.05)


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA A100-SXM4-80GB", None),
    ],
)
def test_limits_of_a_device(name, gpu):
    found = floor.limits(name, 7.0)
    assert found.gpu == gpu
    assert found.bandwidth == (7.0 if gpu is None else floor.DATASHEET[gpu][0])


def step_record(batch, keys, graph, fused, plain, **more):
    times = {"step, graph": graph, "step, graph, fused": fused, "step, plain torch": plain}
    times |= {"step, eager": 0.01, "refresh": 0.02, "refresh, plain torch": 0.04}
    record = {"case": f"LLaDA-8B, {batch} x {keys} keys", "kind": "step", "model": "LLaDA-8B"}
    record |= {"batch": batch, "keys": keys, "seconds": times, "floor": 4.7e-3}
    return {**record, "speed_up": plain / graph, **more}


def attention_record(batch, keys, share, queries=32, heads=32, kv_heads=32):
    sizes = [batch, queries, heads, kv_heads, keys]
    record = {"case": f"attention{tuple(sizes)}", "kind": "operator", "operator": "attention"}
    record |= {"sizes": sizes, "name": f"block_attention {batch} {keys}"}
    return {**record, "share_of_bandwidth": share, "share_of_copy": 1.1 * share}


def sampled(us):
    record = {"case": "confidence", "kind": "operator", "operator": "confidence"}
    seconds = {"dpad": {"median": us * 1e-6, "noise": 0.01}}
    return {**record, "sizes": [32, 126464, 0.0], "seconds": seconds}


def evaluate(records, limits=H100):
    return {row["goal"]: row for row in goals.evaluate(records, limits._asdict())}


def test_goals_are_read_from_the_records():
    records = [
        step_record(1, 1024, 5.6e-3, 5.3e-3, 20e-3),
        step_record(1, 4096, 6.5e-3, 6.1e-3, 31e-3),
        step_record(4, 1024, 6.6e-3, 6.2e-3, 30e-3),
        attention_record(1, 8192, 0.9),
        attention_record(4, 4096, 0.86),
        attention_record(1, 1024, 0.5),  # too few keys
        attention_record(16, 4096, 0.4, heads=28, kv_heads=4),  # bound by products
        sampled(7.5),
    ]
    found = list(evaluate(records, H200).values())
    assert [(g["status"], round(g["value"], 2)) for g in found[:7]] == [
        ("met", 5.3),
        ("not met", 6.1),
        ("not met", 3.77),
        ("met", 5.08),
        ("met", 86.0),
        ("met", 7.5),
        ("met", 3.42),
    ]
    assert found[4]["note"] == "worst of 2 in 2"
    assert {g["status"] for g in found[7:]} == {"not measured"}


def test_what_differs_or_is_missing_meets_no_goal():
    wrong = step_record(1, 1024, 1e-3, 1e-3, 20e-3, problem="logits differ by 3 of 4")
    late = {key: sampled(1)[key] for key in ("case", "kind", "operator", "sizes")}
    found = list(evaluate([wrong, {**late, "skipped": "no time left"}]).values())
    assert {g["status"] for g in found} == {"not measured"}
    assert "logits differ by 3 of 4" in found[0]["note"] and "no time left" in found[5]["note"]
    assert found[4]["note"] == "no record"
    assert {g["status"] for g in evaluate([]).values()} == {"not measured"}


def test_goals_at_their_limits():
    found = list(evaluate([step_record(1, 1024, 5.5e-3, 5.5e-3, 22e-3)]).values())
    assert found[0]["status"] == "not met"
    assert found[2]["status"] == "met" and found[2]["value"] == pytest.approx(4.0)


def expectation(number, kind, cases, limits=H100):
    """The one row of an expectation that these records decide; the others stay open."""
    found = evaluate([{"case": "it", "kind": kind, **c} for c in cases], limits)
    mine = [row for name, row in found.items() if name.startswith(f"{number}. ")]
    others = [row for row in found.values() if row not in mine]
    assert {row["status"] for row in others} == {"not measured"}
    assert all(
        row["decision"] == goals.DECISIONS[str(number)][row["status"] == "not met"]
        for row in mine
        if row["status"] != "not measured"
    )
    return mine


def timed(queries, dpad, flash, slices, kv_heads=32, keys=1024):
    times = {"dpad": dpad, "SDPA flash, exact length": flash, goals.SLICES: slices}
    seconds = {name: {"median": us * 1e-6} for name, us in times.items()}
    return {"queries": queries, "kv_heads": kv_heads, "keys": keys, "seconds": seconds}


@pytest.mark.parametrize(
    ("us", "limits", "status"), [(10, H100, "met"), (7, H100, "not met"), (7, H200, "met")]
)
def test_attention_decides_by_the_scaled_limit_and_the_rows(us, limits, status):
    rows = [timed(32, 8.6, us, us)]
    rows += [timed(128, 30, 20, 40), timed(256, 50, 30, 40), timed(512, 90, 50, 60)]
    rows += [timed(256, 50, 30, 40, keys=4096), timed(512, 90, 50, 95, kv_heads=4)]
    (found,) = expectation(3, "attention", rows, limits)
    assert found["status"] == status
    assert "32 K/V heads: SDPA from 256 query rows" in found["note"]
    assert "4 K/V heads: SDPA at none of the row counts" in found["note"]


@pytest.mark.parametrize(("ms", "status"), [(22.0, "met"), (40.0, "not met"), (10.0, "not met")])
def test_launches(ms, status):
    seen = {"kernels": 2000, "copies": 3, "launches": 2003, "waits": 66, "busy": 0.012}
    cases = [
        {"keys": keys, "seconds": {"plain torch": t}, "profiled": {"plain torch": seen}}
        for keys, t in ((1024, ms * 1e-3), (4096, 30e-3))
    ]
    first, second = expectation(1, "launches", cases)
    assert first["status"] == status and second["status"] == "met"


@pytest.mark.parametrize(("share", "status"), [(0.8, "met"), (0.7, "not met")])
def test_products(share, status):
    rows = [
        {"model": "m", "name": n, "rows": 32, "seconds": 1e-5, "share_of_bandwidth": share}
        for n in ("qkv", "o", "gate+up", "down", "head")
    ]
    (found,) = expectation(2, "linear", rows)
    assert found["status"] == status and found["value"] == pytest.approx(100 * share)
    (found,) = expectation(2, "linear", rows[:3])
    assert found["status"] == "not measured"


@pytest.mark.parametrize(("early", "status"), [(1.3, "met"), (2.0, "not met")])
def test_gaps(early, status):
    figures = {"dependent_launch": True, "small, plain": 2.2, "small, early": early}
    (found,) = expectation(4, "dependent_launch", [{"microseconds": figures}])
    assert found["status"] == status and found["value"] == pytest.approx(2.2 - early)


def test_gaps_without_the_launch_decide_nothing():
    old = {"dependent_launch": False, "small, plain": 2.2}
    (found,) = expectation(4, "dependent_launch", [{"microseconds": old}])
    assert found["status"] == "not measured" and "no such launch" in found["note"]
    (found,) = expectation(4, "dependent_launch", [{"skipped": "no nvcc"}])
    assert found["note"] == "it: no nvcc"


@pytest.mark.parametrize(("us", "status"), [(7.0, "met"), (9.0, "not met")])
def test_sampler(us, status):
    case = {"rows": 32, "cold": us * 1e-6, "hot": 5e-6, "again": us * 1e-6}
    assert expectation(5, "sampler", [case])[0]["status"] == status


@pytest.mark.parametrize(("eager", "status"), [(22e-3, "met"), (30e-3, "not met")])
def test_refresh(eager, status):
    seconds = {"eager": eager, "graph": 21e-3, "plain torch": 30e-3}
    (found,) = expectation(6, "refresh", [{"keys": 1024, "floor": 15e-3, "seconds": seconds}])
    assert found["status"] == status
    assert found["value"] == pytest.approx(eager / 22e-3)


@pytest.mark.parametrize(("fp8", "status"), [(6e-6, "met"), (9e-6, "not met")])
def test_narrow_weights(fp8, status):
    rows = [
        {"model": "m", "name": n, "seconds": {"bf16": 1e-5, "fp8": fp8, "half": 1e-6}}
        for n in range(4)
    ]
    del rows[0]["seconds"]["half"]  # a kind that refuses one product counts for nothing
    (found,) = expectation(7, "narrow", rows)
    assert found["status"] == status and found["note"] == "by fp8, m"


@pytest.mark.parametrize(("together", "status"), [(24.5e-3, "met"), (27e-3, "not met")])
def test_mixed(together, status):
    times = {"mixed": together, "refresh": 22e-3, "steps": 6e-3}
    assert expectation(8, "mixed", [{"seconds": times, "graph": times}])[0]["status"] == status


def test_an_odd_record_costs_only_its_goal():
    (found,) = expectation(5, "sampler", [{"rows": 32}])
    assert found["status"] == "not measured" and found["note"].startswith("KeyError")


def test_the_summary_of_a_gpu(tmp_path, capsys):
    about = {"device": "NVIDIA H100", "torch": "2.11", "copy_bytes_per_second": 3e12}
    cases = [step_record(1, 1024, 5e-3, 5e-3, 22e-3), step_record(1, 4096, 1, 1, 1, problem="odd")]
    sampler = {"case": "c", "kind": "sampler", "rows": 32, "cold": 7e-6, "hot": 5e-6}
    found = {"machine": about, "limits": H100._asdict(), "cases": [*cases, {**sampler, "again": 1}]}
    (tmp_path / "figures.json").write_text(json.dumps(found))
    assert summary.main([str(tmp_path)]) == 0
    text = re.sub(" +", " ", (tmp_path / "summary.md").read_text())
    assert "NVIDIA H100" in text and "rows cut into chunks stay" in text
    assert "| cached step, batch 1, 1024 keys | <= 5.4 ms | 5.00 | met |" in text
    assert "step, graph, fused 5.00 ms" in text and "| c | 32 | 7.0 us | 5.0 us |" in text
    assert "* not measured: LLaDA-8B, 1 x 4096 keys: odd" in text
    assert "cached step, batch 1, 1024 keys: met, 5.00, wanted <= 5.4 ms" in capsys.readouterr().out


def test_nothing_measured_is_an_empty_summary(tmp_path):
    assert summary.main([str(tmp_path)]) == 1
    assert "Nothing was measured." in (tmp_path / "summary.md").read_text()
