"""The block-causal benchmarks: equal work, compared first, and the shipped models side by side."""

import pytest

from benchmarks import block_causal, shipped

SIZES = {"width": 128, "layers": 2, "prompt": 32, "new": 16, "block": 8, "quota": 4, "rounds": 1}
SMALL = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]


def test_it_runs_and_prints_a_ratio_for_each_comparison(capsys):
    found = block_causal.main(SMALL)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == len(found) == 3
    assert all(value > 0 for value in found.values())


def test_other_tokens_are_noticed(monkeypatch):
    decode = block_causal.plain_decode
    monkeypatch.setattr(
        block_causal, "plain_decode", lambda *given: [*decode(*given)[:-1], block_causal.END]
    )
    with pytest.raises(AssertionError, match="47 of 48 tokens are equal"):
        block_causal.main(SMALL)


def test_the_shipped_models_cost_what_the_page_says():
    found = shipped.main(["--problems", "40", "--canvas", "64"])
    assert all(row["exact"] >= 85 for row in found.values())
    cached, plain = (found["tiny_sdar", how] for how in ("exact cache", "no cache"))
    assert cached["exact"] == plain["exact"] and cached["forwards"] == plain["forwards"]
    assert cached["positions"] < 0.7 * plain["positions"]
    dropout = found["tiny_llada", "dropout"]
    assert cached["positions"] < dropout["positions"] and cached["forwards"] > dropout["forwards"]
