"""The counting task, its split and checker, the shipped model and the script that trained it."""

import hashlib
import importlib.util
import itertools
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dpad.demo
from dpad.demo import task

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_tiny"
PROMPT = "<|startoftext|><|user|>by 3 forward from<|assistant|>4185e"
ANSWER = "4188d4191c4194b4197a"


@pytest.fixture(scope="module")
def training():
    """The training example as a module."""
    sys.path.insert(0, str(EXAMPLE))
    spec = importlib.util.spec_from_file_location("train_tiny", EXAMPLE / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(EXAMPLE))


@pytest.fixture(scope="module", params=dpad.demo.MODELS)
def shipped(request):
    """(model, tokenizer) of a shipped folder."""
    return dpad.demo.load(name=request.param)


def start_of(problem):
    return int(problem.prompt[-5:-1])


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (PROMPT, ANSWER),
        (PROMPT.replace("4185e", "0097e"), "0100d0103c0106b0109a"),
        (PROMPT.replace("by 3", "by 1").replace("4185e", "8998f"), "8999e9000d9001c9002b9003a"),
        (
            PROMPT.replace("by 3", "by 2").replace("4185e", "9975m"),
            "9977l9979k9981j9983i9985h9987g9989f9991e9993d9995c9997b9999a",
        ),
    ],
)
def test_solve_known_answers(prompt, answer):
    assert dpad.demo.solve(prompt) == answer


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        PROMPT[15:],
        PROMPT.replace("by 3", "by 4"),
        PROMPT.replace("4185e", "4185d"),
        PROMPT.replace("4185e", "4185n"),
        PROMPT.replace("4185e", "185e"),
        PROMPT + "4188d",
        PROMPT.replace("4185e", "9990e"),
    ],
)
def test_solve_refuses_other_text(prompt):
    with pytest.raises(ValueError, match="prompt: "):
        dpad.demo.solve(prompt)


def test_check_accepts_the_answer_only():
    problem = dpad.demo.Problem(PROMPT)
    ids = dpad.demo.encode(ANSWER)
    end = dpad.demo.END_ID
    assert problem.answer == ANSWER
    assert problem.check(ANSWER)
    assert problem.check(ANSWER + "<|endoftext|><|endoftext|>")
    assert problem.check([*ids, end])
    assert problem.check(torch.tensor([*ids, end, end, end]))
    assert problem.check([*ids, end, 20, 21])  # a raw canvas may hold anything behind the end
    assert not problem.check(ids)  # did not end on its own
    assert not problem.check([end])
    assert not problem.check([*problem.prompt_ids, *ids, end])
    assert not problem.check([*ids, dpad.demo.MASK_ID, end])
    for i, replacement in itertools.product(range(len(ANSWER)), "5x"):
        if ANSWER[i] != replacement:
            assert not problem.check(ANSWER[:i] + replacement + ANSWER[i + 1 :])
    for wrong in ("", ANSWER[:-5], ANSWER + "4200a", ANSWER + " ", ANSWER[5:], PROMPT + ANSWER):
        assert not problem.check(wrong)


def test_check_does_not_trust_a_stored_answer():
    problem = dpad.demo.Problem(PROMPT)
    problem.__dict__["answer"] = "0000a"
    assert problem.check(ANSWER)
    assert not problem.check("0000a")


def test_problems_are_right_different_and_reproducible():
    found = dpad.demo.problems(1000)
    assert len({p.prompt for p in found}) == 1000
    assert found[:100] == dpad.demo.problems(100)
    assert found[:100] != dpad.demo.problems(100, seed=1)
    counts = set()
    for problem in found:
        step = int(re.search(r"by (\d)", problem.prompt)[1])
        records = re.findall(r"(\d{4})([a-l])", problem.answer)
        assert "".join(map("".join, records)) == problem.answer
        numbers = [start_of(problem), *(int(number) for number, _ in records)]
        assert {b - a for a, b in itertools.pairwise(numbers)} == {step}
        letters = problem.prompt[-1] + "".join(letter for _, letter in records)
        assert letters == "mlkjihgfedcba"[-len(letters) :]
        counts.add(len(records))
        assert len(problem.prompt_ids) == 25
    assert counts == set(range(4, 13))


def test_splits_never_share_a_start_number(training):
    held_out = {n for n in range(10000) if task.held_out(n)}
    assert 1240 <= len(held_out) <= 1260
    # spread over all numbers: every stretch of 50 holds some
    assert all(held_out & set(range(n, n + 50)) for n in range(0, 10000, 50))
    assert {start_of(p) for p in dpad.demo.problems(3000)} <= held_out
    assert not {start_of(p) for p in dpad.demo.problems(3000, split="train")} & held_out
    rng = random.Random(0)
    for phase in training.PHASES * 40:
        for row in training.draw_batch(rng, 2304, phase):
            assert int(dpad.demo.decode(row[20:24])) not in held_out


def test_share_of_runs_past_a_hundred():
    def passes(problem):
        return start_of(problem) // 100 != int(problem.answer[-5:-1]) // 100

    def share(crossing):
        rng = random.Random(5)
        return sum(passes(task.sample(rng, "test", crossing)) for _ in range(2000)) / 2000

    assert share(1.0) == 1.0
    by_chance = share(0.0)
    assert 0.1 < by_chance < 0.22
    assert abs(share(0.3) - (0.3 + 0.7 * by_chance)) < 0.05

    rng = random.Random(5)
    short = 0
    for problem in (task.sample(rng, "train", 1.0, beyond=3) for _ in range(2000)):
        step = int(re.search(r"by (\d)", problem.prompt)[1])
        last = int(problem.answer[-5:-1])
        assert passes(problem) or (last + 3 * step) // 100 > last // 100
        short += not passes(problem)
    assert 0.2 < short / 2000 < 0.35


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"n": -1}, ValueError, "n=-1"),
        ({"n": 10001}, ValueError, "n=10001"),
        ({"n": 2.0}, TypeError, "n=2.0"),
        ({"n": True}, TypeError, "n=True"),
        ({"n": 1, "split": "dev"}, ValueError, "split='dev'"),
    ],
)
def test_problems_refuses_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=re.escape(text)):
        dpad.demo.problems(**arguments)
    assert dpad.demo.problems(0) == []


def test_text_and_ids_round_trip():
    text = "".join(dpad.demo.VOCABULARY)
    assert dpad.demo.encode(text) == list(range(48))
    assert dpad.demo.decode(range(48)) == text
    with pytest.raises(ValueError, match="'A'"):
        dpad.demo.encode("aA")
    with pytest.raises(ValueError, match="48"):
        dpad.demo.decode([1, 48])
    with pytest.raises(ValueError, match="-1"):
        dpad.demo.decode([-1])


def test_import_is_light():
    code = "import sys, dpad.demo; dpad.demo.problems(3); print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_shipped_tokenizer_agrees_with_the_task(shipped):
    model, tokenizer = shipped
    assert len(tokenizer) == len(dpad.demo.VOCABULARY) == model.config.vocab_size
    assert tokenizer.convert_ids_to_tokens(range(48)) == list(dpad.demo.VOCABULARY)
    assert tokenizer.mask_token_id == model.config.mask_token_id == dpad.demo.MASK_ID
    assert tokenizer.eos_token_id == model.config.eos_token_id == dpad.demo.END_ID
    assert tokenizer.pad_token_id == model.config.pad_token_id == dpad.demo.END_ID
    for problem in dpad.demo.problems(50):
        text = problem.prompt + problem.answer + "<|mdm_mask|><|endoftext|>"
        ids = tokenizer(text).input_ids
        assert ids == dpad.demo.encode(text)
        assert tokenizer.decode(ids) == text
        answer = tokenizer.decode(ids[25:-2] + [dpad.demo.END_ID], skip_special_tokens=True)
        assert problem.check(answer)


def test_shipped_tokenizer_pads_and_has_a_chat_template(shipped):
    _, tokenizer = shipped
    batch = tokenizer(["by 1", "by"], padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"][1].tolist() == [1, 1, *dpad.demo.encode("by")]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    messages = [{"role": "user", "content": "by 3 forward from"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text + "4185e" == PROMPT
    with pytest.raises(Exception, match="UNK"):
        tokenizer("by é")


@pytest.mark.parametrize("name", dpad.demo.MODELS)
def test_shipped_folder_is_small_and_matches_its_card(name):
    folder = dpad.demo.model_folder(name)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sum(map(len, files.values())) <= 4e6
    card = files.pop("README.md").decode()
    sums = dict(re.findall(r"^    ([0-9a-f]{64})  (\S+)$", card, re.MULTILINE))
    assert sums == {hashlib.sha256(data).hexdigest(): name for name, data in files.items()}
    assert "Apache-2.0" in card


@pytest.mark.parametrize("canvas", [64, 256])
def test_shipped_model_solves_held_out_problems(shipped, training, canvas):
    model, _ = shipped
    assert training.score(model, 60, canvas) >= 90


def test_only_shipped_models_are_found():
    with pytest.raises(ValueError, match="name='tiny_gpt'"):
        dpad.demo.model_folder("tiny_gpt")
    with pytest.raises(ValueError, match="dtype = 'tiny_dream': .*; pass name='tiny_dream'"):
        dpad.demo.load("tiny_dream")


@pytest.mark.slow(reason="trains three times")
@pytest.mark.once
@pytest.mark.parametrize("model", ["llada", "dream", "sdar"])
def test_interrupted_training_ends_with_the_same_weights(training, tmp_path, monkeypatch, model):
    arguments = ["train", "--tokens", "2700", "--last-tokens", "1300", "--step-tokens", "600"]
    arguments += ["--model", model]
    monkeypatch.setattr(sys, "argv", arguments)
    options = training.arguments()
    assert training.Trainer(options).phase_steps == [4, 2]

    whole = training.Trainer(options)
    losses = [whole.train_step() for _ in range(6)]
    first = training.Trainer(options)
    assert [first.train_step() for _ in range(3)] == losses[:3]
    first.save(tmp_path / "checkpoint.pt")
    second = training.Trainer(options)
    second.restore(tmp_path / "checkpoint.pt")
    assert [second.train_step() for _ in range(3)] == losses[3:]
    assert (second.step, second.tokens) == (whole.step, whole.tokens)
    for name, weight in whole.averaged().state_dict().items():
        assert torch.equal(weight, second.averaged().state_dict()[name]), name


def test_training_masks_the_response_only_and_at_every_rate(training):
    rows = training.draw_batch(random.Random(0), 2304, training.PHASES[0])
    seen = []

    class Spy(torch.nn.Module):
        config = type("Config", (), {"model_type": "llada"})

        def forward(self, ids):
            seen.append(ids)
            flat = torch.zeros(*ids.shape, len(dpad.demo.VOCABULARY))
            return type("Output", (), {"logits": flat})

    generator = torch.Generator().manual_seed(0)
    losses = torch.stack([training.sft_loss(Spy(), rows, generator) for _ in range(200)])
    masked = torch.stack(seen) == dpad.demo.MASK_ID
    assert not masked[..., :25].any()
    assert torch.equal(torch.stack(seen)[~masked], rows.expand(200, -1, -1)[~masked])
    shares = masked[..., 25:].float().mean(-1).flatten().sort().values
    # masked shares are uniform over (0, 1), and 1/rate makes the flat model's loss log(48)
    expected = (torch.arange(len(shares)) + 0.5) / len(shares)
    assert (shares - expected).abs().max() < 0.05
    assert abs(losses.mean() - torch.tensor(48.0).log()) < 0.2


def test_blocks_are_trained_as_they_are_decoded(training):
    """Every block with masks gives the logits that it gives behind the clean ones before it, and
    the loss is their cross entropy over the blocks' own mask rates.
    """
    model, _ = dpad.demo.load(name="tiny_sdar")
    rows = training.draw_batch(random.Random(3), 300, training.PHASES[0], longest=64)
    seen = []

    class Spy(torch.nn.Module):
        config = model.config

        def forward(self, ids, **given):
            seen.append((ids, model(ids, **given).logits))
            return type("Output", (), {"logits": seen[-1][1]})

    with torch.no_grad():
        loss = training.block_loss(Spy(), rows, torch.Generator().manual_seed(0))
    (ids, logits), length = seen[0], rows.shape[1]
    noisy, found = ids[:, length:], logits[:, length:]
    assert torch.equal(ids[:, :length], rows) and length == 25 + 64
    masked = noisy == dpad.demo.MASK_ID
    assert not masked[:, :9].any()  # the prompt's tail
    assert torch.equal(noisy[~masked], rows[:, 16:][~masked])
    generator, total = torch.Generator().manual_seed(0), 0.0
    rates = sys.modules["losses"].draw_rates(5 * len(rows), generator, 1)
    rates = rates[torch.randperm(len(rates), generator=generator)].view(len(rows), 5)
    for start in range(16, length, 16):
        part = slice(start - 16, min(start, length - 16))
        canvas = torch.cat((rows[:, :start], noisy[:, part]), dim=1)
        with torch.no_grad():
            wanted = model(canvas).logits[:, start:]
        torch.testing.assert_close(found[:, part], wanted, rtol=1e-4, atol=1e-4)
        wanted = wanted.log_softmax(-1).gather(-1, rows[:, 16:][:, part, None])[..., 0]
        rate = rates[:, start // 16 - 1, None]
        total -= (wanted.where(masked[:, part], 0) / rate).sum()
    torch.testing.assert_close(loss, total / (len(rows) * 64), rtol=1e-4, atol=1e-5)


def test_every_block_has_a_rate_of_its_own(training):
    rows = torch.full((8, 25 + 71), 9)
    seen = []

    class Spy(torch.nn.Module):
        config = type("Config", (), {"model_type": "sdar", "block_size": 16})

        def forward(self, ids, **_):
            seen.append(ids[:, 96:] == dpad.demo.MASK_ID)
            flat = torch.zeros(*ids.shape, len(dpad.demo.VOCABULARY))
            return type("Output", (), {"logits": flat})

    generator = torch.Generator().manual_seed(0)
    losses = torch.stack([training.block_loss(Spy(), rows, generator) for _ in range(200)])
    shares = torch.stack(seen)[..., 16:].unflatten(-1, (4, 16)).float().mean(-1)
    # uniform over (0, 1) in each block, and no more alike in a row than elsewhere
    for block in shares.unbind(-1):
        ordered = block.flatten().sort().values
        expected = (torch.arange(len(ordered)) + 0.5) / len(ordered)
        assert (ordered - expected).abs().max() < 0.09
    together = torch.corrcoef(shares.flatten(0, 1).T) - torch.eye(4)
    assert together.abs().max() < 0.12
    # 1/rate makes the flat model's loss log(48)
    assert abs(losses.mean() - torch.tensor(48.0).log()) < 0.2
