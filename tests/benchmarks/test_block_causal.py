"""The block-causal benchmark compares equal work: it stops where logits or tokens differ."""

import pytest

from benchmarks import block_causal

SMALL = "--width 128 --layers 2 --prompt 32 --new 16 --block 8 --quota 4 --rounds 1".split()


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
