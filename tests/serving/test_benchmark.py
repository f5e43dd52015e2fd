"""`python -m benchmarks.serve` at its smallest, and its arithmetic."""

import itertools
import json

import pytest

from benchmarks import load, serve, serve_dlmserve


def seen(status, first, end, tokens=4):
    return load.Seen(status, first, end, 2, tokens if status == 200 else 0, "text")


def test_summary():
    answers = [seen(200, 0.001 * n, 0.002 * n) for n in range(1, 101)]
    found = load.summary([*answers, seen(429, 0, 0), seen(503, 0, 0)], seconds=10.0)
    assert (found["completed"], found["failed"]) == (100, 2)
    assert found["statuses"] == {"200": 100, "429": 1, "503": 1}
    assert found["request_throughput"] == 10 and found["output_throughput"] == 40
    assert found["total_token_throughput"] == 60
    assert found["median_ttft_ms"] == pytest.approx(50) and found["p99_ttft_ms"] == 99
    assert found["mean_ttft_ms"] == pytest.approx(50.5)
    assert found["median_e2el_ms"] == pytest.approx(100)
    assert load.percentile([], 0.5) == 0 and load.percentile([7], 0.99) == 7
    text = load.table("title", found)
    assert "P99 TTFT (ms):                           99.00" in text and "failed" not in text


def test_arrivals_are_seeded_and_timed_from_when_they_were_due():
    class Slow:
        def __init__(self):
            self.due = []

        def ask(self, prompt, arrived):
            self.due.append(arrived)
            return seen(200, 0, 0)

    gaps = []
    for seed in (1, 1, 2):
        client = Slow()
        answers, seconds = load.poisson(client, ["a"] * 40, 2000.0, seed)
        assert len(answers) == 40 and seconds > 0
        due = sorted(client.due)
        gaps.append([round(b - a, 9) for a, b in itertools.pairwise(due)])
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-6)
    assert gaps[0] != pytest.approx(gaps[2], abs=1e-6)
    assert all(sum(found) <= 40 / 2000 for found in gaps)  # so many in that time, whatever is drawn
    assert sum(gaps[0]) / 39 == pytest.approx(1 / 2000, rel=0.5)


@pytest.mark.parametrize("value, met", [(1.5, True), (1.49, False), ((1.6, 1.0, 2.0), True)])
def test_checks(value, met):
    check = serve.checked("name", value, 1.5, "least")
    assert check["met"] is met and ("NOT MET" in serve.line(check)) is not met
    assert serve.checked("name", value, 1.5, "most")["met"] is (check["value"] <= 1.5)


def test_a_client_of_whole_answers(server, problems):
    """The one that asks dlmserve: prompts are user turns."""
    client = serve_dlmserve.Chat(server.url, "demo", {"max_tokens": 64, "seed": 0})
    seen = client.ask("by 3 forward from")
    assert (seen.status, seen.tokens, seen.first) == (200, serve_dlmserve.CANVAS, seen.end)
    assert seen.text and seen.end > 0 and seen.prompt_tokens > 0
    assert serve_dlmserve.Chat(server.url, "other", {}).ask("a").status == 404
    answers, _ = load.closed(client, ["by 3 forward from"] * 6, 3)
    assert {answer.text for answer in answers} == {seen.text}


@pytest.mark.slow(reason="starts two servers")
def test_a_run(tmp_path, capsys):
    """What does not depend on the machine's speed is as it must be."""
    path = tmp_path / "found.json"
    words = ["--small", "--requests", "16", "--rounds", "1", "--threads", "1"]
    code = serve.main([*words, "--output", str(path)])
    found, text = json.loads(path.read_text()), capsys.readouterr().out
    checks = {check["name"]: check for check in found["checks"]}
    assert list(checks) == list(serve.GOALS)
    assert code == (0 if all(check["met"] for check in checks.values()) else 1)
    assert checks["answers that differ from in-process"]["value"] == 0
    assert checks["failed otherwise above capacity"]["value"] == 0
    assert checks["refused above capacity (429)"]["value"] > 0
    first, *_, last = found["tables"].values()
    assert first["completed"] == 16 and first["total_output_tokens"] == 16 * serve.CANVAS
    assert last["completed"] + last["failed"] == 16 * 12
    assert text.count("Median TTFT (ms)") == len(found["tables"]) == 4
    assert found["machine"]["commit"] and found["parameters"] > 1_000_000
