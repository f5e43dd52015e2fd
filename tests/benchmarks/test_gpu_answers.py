"""Floors, goals, decisions and documents of `benchmarks.gpu`, from made-up results."""

import json

import pytest

from benchmarks.gpu import answers, floor, goals, models, summary

LLADA, DREAM = models.RELEASED["LLaDA-8B"], models.RELEASED["Dream-7B"]
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
    found = floor.limits({"device": name, "copy_bytes_per_second": 7.0})
    assert found.gpu == gpu
    assert found.bandwidth == (7.0 if gpu is None else floor.DATASHEET[gpu][0])


def step_record(batch, keys, graph, fused, plain, **more):
    times = {"step, graph": graph, "step, graph, fused": fused, "step, plain torch": plain}
    times |= {"step, eager": 0.01, "refresh": 0.02, "refresh, plain torch": 0.04}
    record = {"name": f"LLaDA-8B, {batch} x {keys} keys", "model": "LLaDA-8B", "batch": batch}
    record |= {"keys": keys, "seconds": times, "floor": 4.7e-3, "refresh_floor": 0.015}
    return {**record, "speed_up": plain / graph, **more}


def attention_record(batch, keys, share, queries=32, kv_heads=32):
    sizes = {"batch": batch, "queries": queries, "kv_heads": kv_heads, "keys": keys}
    shares = {"share_of_bandwidth": share, "share_of_copy": 1.1 * share}
    return {"name": f"block_attention {batch} {keys}", "sizes": sizes, **shares}


def results(limits, **cases):
    machine = {"device": f"NVIDIA {limits.gpu}", "torch": "2.11", "cuda": "13.0", "python": "3.12"}
    machine |= {"date": "today", "commit": None, "copy_bytes_per_second": 3e12}
    head = {"machine": machine, "limits": limits._asdict()}
    return {name: {**head, "cases": found} for name, found in cases.items()}


def sampled(us):
    sizes = {"rows": 32, "vocab": 126464, "temperature": 0.0}
    seconds = {"dpad": {"median": us * 1e-6, "noise": 0.01}}
    return {"name": "confidence 32 x 126464", "sizes": sizes, "seconds": seconds}


def test_goals_are_read_from_the_results():
    files = results(
        H200,
        step=[
            step_record(1, 1024, 5.6e-3, 5.3e-3, 20e-3),
            step_record(1, 4096, 6.5e-3, 6.1e-3, 31e-3),
            step_record(4, 1024, 6.6e-3, 6.2e-3, 30e-3),
        ],
        operators=[
            attention_record(1, 8192, 0.9),
            attention_record(4, 4096, 0.86),
            attention_record(1, 1024, 0.5),  # too few keys
            attention_record(16, 4096, 0.4, kv_heads=4),  # bound by products
            sampled(7.5),
        ],
        throughput=[
            {"name": "it", "model": "LLaDA-8B", "batch": b, "per_step": 1, "tokens_per_second": t}
            for b, t in ((1, 150.0), (4, 420.0))
        ],
    )
    found = goals.evaluate(files)
    assert [(g["status"], round(g["value"], 2)) for g in found] == [
        ("met", 5.3),
        ("not met", 6.1),
        ("not met", 3.77),
        ("met", 5.08),
        ("met", 86.0),
        ("met", 7.5),
        ("met", 3.42),
    ]
    assert found[0]["scaled"] == pytest.approx(5.4 * 3.35 / 4.8)  # information: 5.3 is met
    assert "not fused 5.60" in found[0]["note"]
    assert "scaled" not in found[2] and "2.80x at 1 tokens per step" in found[6]["note"]
    assert "worst of 2" in found[4]["note"]


def test_what_differs_or_is_missing_meets_no_goal():
    wrong = step_record(1, 1024, 1e-3, 1e-3, 20e-3, problem="logits differ by 3 of 4")
    skipped = {"name": "confidence(32, 126464, 0.0)", "skipped": "no time left"}
    found = goals.evaluate(results(H100, step=[wrong], operators=[skipped]))
    assert {g["status"] for g in found} == {"not measured"}
    assert "logits differ by 3 of 4" in found[0]["note"] and "no time left" in found[5]["note"]
    assert found[4]["note"] == "no record"
    assert {g["status"] for g in goals.evaluate({})} == {"not measured"}


def test_on_the_h100_itself_nothing_is_scaled():
    found = goals.evaluate(results(H100, step=[step_record(1, 1024, 5.5e-3, 5.5e-3, 22e-3)]))
    assert found[0]["status"] == "not met" and "scaled" not in found[0]
    assert found[2]["status"] == "met" and found[2]["value"] == pytest.approx(4.0)


def answer(number, cases, limits=H100):
    found = answers.answers([{"measurement": number, **c} for c in cases], limits)
    assert [a["decision"] for a in found if a["number"] != number] == ["not measured"] * 7
    return found[number - 1]


def timed(queries, dpad, flash, slices, kv_heads=32, keys=1024):
    times = {"dpad": dpad, answers.FLASH: flash, "SDPA flash, slices of the cache": slices}
    seconds = {name: {"median": us * 1e-6} for name, us in times.items()}
    sizes = {"batch": 1, "queries": queries, "kv_heads": kv_heads, "keys": keys}
    return {"name": f"{queries} rows", "sizes": sizes, "seconds": seconds}


@pytest.mark.parametrize(
    ("flash", "limits", "holds"), [(10, H100, True), (7, H100, False), (7, H200, True)]
)
def test_attention_decides_by_the_scaled_limit_and_the_rows(flash, limits, holds):
    rows = [timed(32, 8.6, flash, flash)]
    rows += [timed(128, 30, 20, 40), timed(256, 50, 30, 40), timed(512, 90, 50, 60)]
    rows += [timed(256, 50, 30, 40, keys=4096), timed(512, 90, 50, 95, kv_heads=4)]
    found = answer(3, rows, limits)
    assert found["holds"] is holds
    assert "32 K/V heads: SDPA from 256 query rows" in found["decision"]
    assert "4 K/V heads: SDPA at none of the row counts" in found["decision"]


def test_launches():
    def case(keys, ms, kernels=2000):
        seen = {"kernels": kernels, "copies": 3, "launches": 2003, "waits": 66, "busy": 0.012}
        return {
            "keys": keys,
            "seconds": {"plain torch": ms * 1e-3},
            "profiled": {"plain torch": seen},
        }

    good = answer(1, [case(1024, 22.0), case(4096, 30.0)])
    assert good["holds"] is True and "2000 kernels" in good["figures"][0]
    assert answer(1, [case(1024, 40.0), case(4096, 30.0)])["holds"] is False


@pytest.mark.parametrize(("share", "holds"), [(0.8, True), (0.7, False)])
def test_products(share, holds):
    names = ("qkv", "o", "gate+up", "down", "head")
    rows = [
        {"model": "m", "product": n, "rows": 32, "seconds": 1e-5, "share_of_bandwidth": share}
        for n in names
    ]
    found = answer(2, rows)
    assert found["holds"] is holds and f"{share:.0%} at 32" in found["decision"].replace(
        "or more ", ""
    )
    assert answer(2, rows[:3])["decision"] == "not measured"


@pytest.mark.parametrize(("early", "holds"), [(1.3, True), (2.0, False)])
def test_gaps(early, holds):
    figures = {"dependent_launch": True, "small, plain": 2.2, "small, early": early}
    found = answer(4, [{"name": "gap", "microseconds": figures}])
    assert found["holds"] is holds and f"{2.2 - early:.2f} us saved" in found["decision"]


def test_gaps_without_the_launch_decide_nothing():
    old = {"dependent_launch": False, "small, plain": 2.2}
    found = answer(4, [{"name": "gap", "microseconds": old}, {"name": "x", "skipped": "no nvcc"}])
    assert found["holds"] is None and found["not_measured"] == ["x: no nvcc"]


@pytest.mark.parametrize(("us", "holds"), [(7.0, True), (9.0, False)])
def test_sampler(us, holds):
    case = {"name": "c", "rows": 32, "cold": us * 1e-6, "hot": 5e-6, "again": us * 1e-6}
    assert answer(5, [case])["holds"] is holds


@pytest.mark.parametrize(("eager", "holds"), [(22e-3, True), (30e-3, False)])
def test_refresh(eager, holds):
    seconds = {"eager": eager, "graph": 21e-3, "plain torch": 30e-3}
    found = answer(6, [{"keys": 1024, "floor": 15e-3, "seconds": seconds}])
    assert found["holds"] is holds and ("9.00 ms over" in found["decision"]) is not holds


@pytest.mark.parametrize(("fp8", "holds"), [(6e-6, True), (9e-6, False)])
def test_narrow_weights(fp8, holds):
    rows = [
        {
            "model": "m",
            "product": n,
            "layers": 2,
            "seconds": {"bf16": 1e-5, "fp8": fp8, "half": 1e-6}
            if n
            else {"bf16": 1e-5, "fp8": fp8},
            "unavailable": {} if n else {"half": "refused"},
        }
        for n in range(4)
    ]
    found = answer(7, rows)
    assert found["holds"] is holds  # a kind that refuses one product counts for nothing
    assert any("half: not available, refused" in text for text in found["figures"])


@pytest.mark.parametrize(("mixed", "holds"), [(24.5e-3, True), (27e-3, False)])
def test_mixed(mixed, holds):
    times = {"mixed": mixed, "refresh": 22e-3, "steps": 6e-3}
    assert answer(8, [{"name": "mixed", "seconds": times, "graph": times}])["holds"] is holds


def test_an_odd_record_costs_only_its_answer():
    found = answer(5, [{"name": "c", "rows": 32}])
    assert found["holds"] is None and found["decision"].startswith("not decided: KeyError")


def test_a_document_of_a_gpu(tmp_path):
    case = {"measurement": 5, "name": "c", "rows": 32, "cold": 7e-6, "hot": 5e-6, "again": 7e-6}
    files = results(H100, measurements=[case], step=[step_record(1, 1024, 5e-3, 5e-3, 22e-3)])
    files["measurements"]["answers"] = answers.answers([case], H100)
    for name, found in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    assert summary.main([str(tmp_path), "--document", str(tmp_path / "answers.md")]) == 0
    text = (tmp_path / "answers.md").read_text()
    assert "NVIDIA H100" in text and "* decision: rows cut into chunks stay" in text
    assert "    c: cold 7.0 us (again 7.0 us), hot 5.0 us" in text
    shown = (tmp_path / "summary.md").read_text()
    assert "| cached step, batch 1, 1024 keys | <= 5.4 ms | 5.00 | met |" in shown
    assert "| 5 | The sampler's kernel, L2 cold and hot | holds |" in shown


def test_no_answers_are_no_document():
    with pytest.raises(ValueError, match="holds no answers"):
        summary.document({})
