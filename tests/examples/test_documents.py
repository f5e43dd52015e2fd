"""Every Python block of the README and the documents runs, in order, as shown."""

import json
import re
from pathlib import Path

import numpy as np
import torch

import dpad
from dpad.generation.config import ALIASES

ROOT = Path(__file__).parents[2]
# Needs 16 GB of weights.
NOT_RUN = ('"GSAI-ML/',)


def run(name):
    """Runs the blocks of a document one after the other; returns their names."""
    torch.manual_seed(0)
    space = {}
    for block in blocks(name):
        exec(compile(block, name, "exec"), space)  # the documents are ours
    return space


def blocks(name):
    """Python blocks of a document, in order."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return [b for b in found if not any(words in b for words in NOT_RUN)]


def test_readme_runs(capsys):
    space = run("README.md")
    printed = capsys.readouterr().out
    problem = dpad.demo.problems(1)[0]
    assert "block_attention" in printed and problem.answer in printed
    assert space["out"].finish_reason == ["stop"]


def test_generate_runs(capsys):
    space = run("docs/generate.md")
    answer = space["tokenizer"].decode(space["out"].sequences[0, space["start"] :])
    assert capsys.readouterr().out.strip()
    assert space["text"] and space["text"] != answer  # what the lists changed


def test_commit_rules_run(capsys):
    run("docs/commit_rules.md")
    printed = capsys.readouterr().out.splitlines()
    sevens = [line.split() for line in printed if line.endswith("sevens")]
    assert len(printed) == 9 and int(sevens[0][0]) > 10
    forwards, refined = printed[7].split(maxsplit=1)
    assert json.loads(forwards)[0] > 1 and np.shape(json.loads(refined)) == (1, 2)
    assert json.loads(printed[8])[0] > 1  # edited


def test_migration_runs():
    space = run("docs/migration.md")
    assert space["ids"].shape == space["out"].sequences.shape


def test_pictures_run():
    space = run("docs/pictures.md")
    assert len(space["axes"].patches) == 8
    assert "@keyframes" in str(space["moving"])


def test_quantize_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space = run("docs/quantize.md")
    assert (tmp_path / "small" / "model.safetensors").exists()
    assert "bytes of weights now" in capsys.readouterr().out
    assert space["small"].active and len(space["small"].layers) == len(space["found"].errors)


def test_tuning_runs(capsys):
    space = run("docs/tuning.md")
    printed = capsys.readouterr().out
    assert "confidence_threshold" in printed and "8 problems" in printed
    assert space["handle"].config == space["result"].best.config


def test_first_steps_run(capsys):
    space = run("docs/first_steps.md")
    assert "supported (llada)" in capsys.readouterr().out
    assert len(space["first"].points[0].right) == 4
    assert len(space["result"].points[0].right) == 12
    assert space["ids"].shape[1] == 25 + 96


def test_aliases_are_listed():
    text = (ROOT / "docs/generate.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", text, flags=re.MULTILINE))
    assert rows == ALIASES


def test_links_lead_somewhere():
    for document in (
        "README.md",
        *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md")),
    ):
        text = (ROOT / document).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert ((ROOT / document).parent / link).exists(), f"{document}: {link}"
