"""`python -m benchmarks.rules` with two problems."""

import json
import re

import pytest

from benchmarks import rules


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(rules, "DRAFTS", (0.3, 0.6, 0.9, 1.1))
    monkeypatch.setattr(rules, "REFINED", {"half": rules.dpad.Refine(0.5)})
    kept = ("one token per step", "threshold 0.9", "ReMDM loop")
    monkeypatch.setattr(rules, "RULES", {label: rules.RULES[label] for label in kept})


def test_tables_and_results(few, tmp_path, capsys):
    out = tmp_path / "rules.json"
    rules.main(["--tasks", "counting", "--problems", "2", "--out", str(out)])
    found = json.loads(out.read_text())["counting"]
    assert found["rules"]["one token per step"]["right"] == [True, True]
    printed = re.sub(" +", " ", capsys.readouterr().out)  # cells are padded
    assert "| counting | accuracy, % | forwards | ms |" in printed
    assert "| half of 0.6 |" in printed and "to draft" in printed
    fast, slow = (found["refine"][f"draft {t}"]["forwards"] for t in (0.3, 1.1))
    assert sum(fast) < sum(slow)
    assert found["refine"]["half of 0.6"]["refined"][0] > 0


def test_planning_models_have_to_be_there(tmp_path):
    with pytest.raises(SystemExit, match="examples/planning trains it"):
        rules.main(["--tasks", "fill", "--planning", str(tmp_path)])
