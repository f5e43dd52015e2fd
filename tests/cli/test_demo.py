"""`dpad demo`: the race, the figures that follow, and both ways to show them."""

import io
import types

import pytest
import torch
from rich.console import Console

import dpad
from dpad.cli import demo as demo_command
from dpad.demo import panes, race, report, show
from dpad.demo.task import END_ID, MASK_ID
from tests.doubles.reference_decoder import ordinary

PROBLEMS = dpad.demo.problems(3)


@pytest.fixture(scope="module")
def models():
    """(unpatched, patched) instances of the shipped model."""
    stock, model = dpad.demo.load()[0], dpad.demo.load()[0]
    with dpad.patch(model):
        yield stock, model


@pytest.fixture
def quick(monkeypatch):
    """The exact mode on fewer problems."""
    monkeypatch.setattr(show, "EXACT_PROBLEMS", 2)
    monkeypatch.setattr(show, "EXACT_CANVAS", 32)


def test_without_a_terminal_it_is_lines_of_text(run, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("demo --seconds 0.2 --canvas 64")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert any("ordinary: step" in line and "| dpad:" in line.replace("  ", " ") for line in lines)
    for name in ("plain", *report.SETTINGS):
        assert sum(line.startswith(name + " ") for line in lines) == 1
    assert "exact mode: 2 of 2 token-identical" in lines
    assert f"picture: {tmp_path / 'dpad-demo.png'}" in lines
    assert (tmp_path / "dpad-demo.png").read_bytes().startswith(b"\x89PNG")
    assert any("not run on the released weights" in line for line in lines)
    for line in report.THREE_LINES:
        assert f"    {line}" in lines
    assert "\x1b" not in result.stdout


def test_json(run, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(show, "FRAMES_PER_SECOND", 0)  # a frame would divide by zero
    found = run("demo --seconds 0.2 --canvas 64 --no-picture --json").json
    assert found["exact"]["identical"] == found["exact"]["of"] == 2
    assert found["picture"] is None
    assert not list(tmp_path.iterdir())
    assert [row["name"] for row in found["rows"]] == ["plain", *report.SETTINGS]
    plain, threshold, stop, everything = found["rows"]
    assert (plain["tokens"], plain["forwards"], plain["positions"]) == (64, 64, 64 * 89)
    assert threshold["positions"] == threshold["forwards"] * 89
    assert stop["forwards"] <= threshold["forwards"]
    assert everything["positions"] < stop["positions"]
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(plain["seconds"] / row["seconds"])
    sides = found["race"]
    assert sides["dpad"]["solved"] >= max(1, sides["dpad"]["right"])
    assert sides["ordinary"]["steps_of_current"] >= 1


def test_live_panes_on_a_terminal(quick):
    file = io.StringIO()
    size = {"width": 100, "height": 30, "force_terminal": True, "legacy_windows": False}
    console = Console(file=file, **size)
    found = show.demonstrate(0.3, 64, False, console=console)
    text = file.getvalue()
    assert "ordinary decoding, one token per step" in text
    assert "\x1b[" in text
    assert panes.LOOKS["mask"][0] in text
    assert f"{found['race']['dpad']['solved']} solved" in text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--canvas 32", "canvas = 32: expected 64 to 900"),
        ("--seconds -1", "seconds = -1.0: expected 0 to 3600"),
        ("--picture no/where.png", "there is no folder no"),
        ("--picture x.png --no-picture", "exclude each other"),
    ],
)
def test_bad_values(run, line, text):
    result = run(f"demo {line}")
    assert result.exit_code == 2
    assert text in result.stderr


def test_examples_are_known_options(run):
    for line in demo_command.EXAMPLES:
        # As written they race for seconds: the help is enough to parse every word.
        assert run(line.removeprefix("dpad ").replace("--json", "") + " --help").exit_code == 0


def test_the_ordinary_decoder_commits_the_best_masked_token(models):
    stock, _ = models
    decoder = race.OrdinaryDecoder(stock, [p.prompt_ids for p in PROBLEMS], 64)
    for step in range(34):
        before = decoder.tokens.clone()
        decoder.step()
        new = decoder.tokens != before
        assert new.sum(-1).tolist() == [1] * len(PROBLEMS)
        assert (before[new] == MASK_ID).all()
        place = new.nonzero()[:, 1] - decoder.prompt_length
        assert set((place // 32).tolist()) == {step // 32}
        with torch.no_grad():
            logits = stock(before).logits
        logits[..., MASK_ID] = -torch.inf
        best = logits.softmax(-1).max(-1)
        block = slice(decoder.prompt_length + step // 32 * 32, None)
        score = best.values.masked_fill(before != MASK_ID, -1)[:, block][:, :32]
        assert torch.allclose(score.max(-1).values, best.values[new], atol=1e-6)
        assert torch.equal(decoder.tokens[new], best.indices[new])
    assert (decoder.steps, decoder.finished) == (34, False)
    assert decoder.positions == 34 * (64 + decoder.prompt_length)


def test_the_ordinary_decoder_is_the_reference(models):
    prompts = [p.prompt_ids for p in PROBLEMS]
    decoder = race.OrdinaryDecoder(models[0], prompts, 40)
    while not decoder.finished:
        decoder.step()
    expected = ordinary(models[0], torch.tensor(prompts), 40, mask_id=MASK_ID)
    assert torch.equal(decoder.tokens, expected.tokens)
    assert decoder.positions * len(prompts) == expected.positions


def test_the_exact_mode_is_really_compared(models):
    stock, model = models
    assert report.exact(stock, model, PROBLEMS, canvas=32)["identical"] == len(PROBLEMS)

    def one_token_off(*args, **kwargs):
        ids = model.generate(*args, **kwargs)
        ids[1, -1] = (ids[1, -1] + 1) % 48
        return ids

    other = types.SimpleNamespace(generate=one_token_off)
    result = report.exact(stock, other, PROBLEMS, canvas=32)
    assert (result["identical"], result["of"]) == (len(PROBLEMS) - 1, len(PROBLEMS))


def test_the_exact_mode_ends_when_its_time_is_over(models, monkeypatch):
    monkeypatch.setattr(report, "CHUNK", 1)
    result = report.exact(*models, PROBLEMS, canvas=32, budget=0)
    assert (result["identical"], result["of"]) == (1, 1)
    monkeypatch.setattr(report, "exact", lambda *args: result)
    console = Console(file=io.StringIO(), width=200)
    show._exact(*models, 0, console)
    assert "exact mode: 1 of 1 token-identical (20 wanted, 10 s were over)" in (
        console.file.getvalue()
    )


def test_an_answer_counts_once_it_is_complete():
    problem = PROBLEMS[0]
    right = torch.tensor([*dpad.demo.encode(problem.answer), END_ID, MASK_ID, MASK_ID])
    assert race.answered(problem, right) is True
    gap = right.clone()
    gap[3] = MASK_ID
    assert race.answered(problem, gap) is None
    assert race.answered(problem, torch.full((64,), MASK_ID)) is None
    wrong = right.clone()
    wrong[4] += 1
    assert race.answered(problem, wrong) is False
    assert race.answered(problem, torch.full((8,), 7)) is False


def test_both_clocks_run_equally():
    class Side:
        def __init__(self, cost):
            self.cost, self.seconds = cost, 0.0

        def step(self):
            self.seconds += self.cost

        solve = step

    left, right = Side(0.05), Side(0.02)
    for turn, _ in enumerate(race.race(left, right, 0.02)):
        if turn:
            assert abs(left.seconds - right.seconds) <= 0.0701  # one turn of either
    assert left.seconds > 0.05
    once = Side(1.0), Side(1.0)
    assert [s.seconds for _ in race.race(*once, 0) for s in once[:1]] == [0.0, 1.0]


def test_time_of_steps_not_taken_is_their_mean(models):
    decoder = race.OrdinaryDecoder(models[0], [PROBLEMS[0].prompt_ids], 64)
    decoder.steps, decoder.seconds = 4, 0.2
    row = report.plain_row(decoder, PROBLEMS[0])
    assert row["seconds"] == pytest.approx(3.2)
    assert (row["steps_timed"], row["right"]) == (4, None)


def test_panes_show_what_the_last_pass_saw(models):
    _, model = models
    solver = race.Solver(model, PROBLEMS, 128, {**report.ALL, "trace": True, "seed": 1})
    solver.solve()
    output, prompt = solver.output, len(PROBLEMS[0].prompt_ids)
    looks = panes.dpad_looks(solver.problem, output)
    kept = output.kept_suffix[0][-1].tolist()
    assert [prompt + i for i, (_, look) in enumerate(looks) if look == "kept"] == kept
    committed = sum(len(event["positions"]) for event in output.trace.events)
    assert sum(look in ("committed", "end") for _, look in looks) == committed
    assert len(looks) == 128
    text = panes.canvas_text(looks, 32, 3).plain
    assert text.splitlines()[-1] == "... 32 more"
    assert [len(line) for line in text.splitlines()[:3]] == [32] * 3
    assert panes.canvas_text(looks, 32, 4, ascii_only=True).plain.isascii()
    answer = dpad.demo.decode([token for token, look in looks[:20] if look == "committed"])
    assert text.startswith(answer)


def test_the_three_lines_run(models, monkeypatch):
    from dpad.models import hf

    stock = dpad.demo.load()[0]
    names = []

    def from_pretrained(name):
        names.append(name)
        return stock

    monkeypatch.setattr(hf.AutoModel, "from_pretrained", staticmethod(from_pretrained))
    space = {"dpad": dpad, "inputs": {"input_ids": [PROBLEMS[0].prompt_ids]}}
    exec("\n".join(report.THREE_LINES), space)
    assert names == ["GSAI-ML/LLaDA-8B-Instruct"]
    assert space["ids"].shape[0] == 1
    space["handle"].remove()


def test_a_missing_matplotlib_only_costs_the_picture(models, monkeypatch):
    def missing(*args):
        raise ModuleNotFoundError("No module named 'matplotlib'")

    monkeypatch.setattr(report, "picture", missing)
    console = Console(file=io.StringIO(), width=200)
    assert show._picture(models[1], 64, True, 0, console) is None
    assert "type: pip install matplotlib" in console.file.getvalue()
