"""`python -m benchmarks.perplexity`: what it counts, and a small run."""

import json
import math

import pytest
import torch

import dpad
from benchmarks import perplexity
from dpad.demo.task import END_ID, Problem, encode

PROMPT = "<|startoftext|><|user|>by {} forward from<|assistant|>{}"


def filled(step, state, canvas=64):
    """A problem's prompt with its answer and the end tokens behind."""
    text = encode(PROMPT.format(step, state) + Problem(PROMPT.format(step, state)).answer)
    return torch.tensor(text + [END_ID] * (25 + canvas - len(text)))


def test_all_right_answers_are_known():
    problem = perplexity.Open(Problem(PROMPT.format(2, "4185e")))
    assert sorted(problem.answers.values()) == [1, 2, 3]
    ids = problem.ids(64)
    assert len(ids) == 25 + 64 and ids.count(dpad.demo.MASK_ID) == 65
    assert ids[perplexity.STEP] == dpad.demo.MASK_ID
    for step in (1, 2, 3):
        row = filled(step, "4185e")
        assert problem.step_of(row) == (step, True)
        row[perplexity.STEP] = encode("7")[0]
        assert problem.step_of(row) == (step, False)
        row[30] = encode("z")[0]
        assert problem.step_of(row) == (None, False)
    unended = torch.where(filled(1, "4185e") == END_ID, encode("z")[0], filled(1, "4185e"))
    assert problem.step_of(unended) == (None, False)
    # 9980 + 3 * 12 needs five digits.
    assert sorted(perplexity.Open(Problem(PROMPT.format(1, "9980m"))).answers.values()) == [1]


@pytest.mark.parametrize(
    "counts, possible, wanted",
    [
        ({1: 5}, 3, (1 / 3, 0.0, 1.0, math.log(3))),
        ({1: 2, 3: 2}, 3, (2 / 3, math.log(2), 2.0, math.log(1.5))),
        ({1: 4, 2: 4, 3: 4}, 3, (1.0, math.log(3), 3.0, 0.0)),
        ({2: 7}, 1, (1.0, 0.0, 1.0, 0.0)),
    ],
)
def test_spread(counts, possible, wanted):
    assert perplexity.spread(counts, possible) == pytest.approx(wanted)


def test_no_right_sample_has_no_spread():
    assert perplexity.spread({}, 3) is None


def test_what_is_counted(monkeypatch):
    """Of each four samples three are right, and of each four fillings one names its step."""

    def draw(model, ids, samples, *, infill=False, **options):
        rows = [filled(step, "4185e") for step in (2, 2, 2 + infill, 2)]
        rows[3][26] = encode("z")[0]
        if infill:
            rows[1][perplexity.STEP] = rows[2][perplexity.STEP] = encode("a")[0]
        return torch.stack(rows)

    monkeypatch.setattr(perplexity, "draw", draw)
    problems, model = [Problem(PROMPT.format(2, "4185e"))] * 2, dpad.demo.load()[0]
    options = perplexity.parse(["--samples", "4", "--masks", "2"])
    found = perplexity.answers(model, problems, options)
    assert set(map(tuple, found["shares"].values())) == {(0.75, 0.75)}
    assert found["tokens"] == [21, 21]
    row = perplexity.answer_rows("x", found)[0]
    assert row[3] == "75.0 (75.0 to 75.0)" and row[4] == f"{0.75 ** (-1 / 21):.4f}"
    opened = perplexity.open_prompts(model, problems, options)
    assert all(v == [({2: 2, 3: 1}, 1, 3)] * 2 for v in opened.values())
    row = perplexity.open_rows("x", opened, 4)[0]
    assert row[3:6] == ["75.0 (75.0 to 75.0)", "25.0", "0.67"]


@pytest.mark.once
def test_a_small_run(tmp_path, capsys):
    out = tmp_path / "found.json"
    sizes = [
        "--problems",
        "3",
        "--samples",
        "8",
        "--masks",
        "16",
        "--canvas",
        "40",
        "--out",
        str(out),
    ]
    found = perplexity.main(["--models", "tiny_llada", *sizes])["tiny_llada"]
    assert (
        json.loads(out.read_text())["tiny_llada"]["answers"]["tokens"] == found["answers"]["tokens"]
    )
    printed = " ".join(capsys.readouterr().out.split())
    assert "| tiny_llada | first hitting | 1.0 |" in printed and "coverage" in printed
    shares = found["answers"]["shares"]
    assert all(0 < sum(s) / 3 <= 1 for s in shares.values())
    # First hitting draws the order that the bound is a mean over: it cannot be right less often,
    # up to four standard errors of 24 samples.
    least = sum(map(math.exp, found["answers"]["bound"])) / 3
    share = sum(shares["first hitting, 1.0"]) / 3
    assert share > least - 4 * math.sqrt(least * (1 - least) / 24)
