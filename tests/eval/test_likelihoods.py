"""`loglikelihood` and `loglikelihood_rolling`: dpad's bounds, for the harness's requests."""

import math

import pytest
import torch

import dpad

pytest.importorskip("lm_eval", reason="lm-eval is not installed (requirements/eval.txt)")

from dpad.eval import DPadLM

ENCODE = dpad.demo.encode


@pytest.fixture(scope="module", params=dpad.demo.MODELS)
def either(request):
    """(model, tokenizer) of each shipped family."""
    return dpad.demo.load(name=request.param)


@pytest.fixture(scope="module")
def pairs(problems):
    """Contexts and continuations of several lengths, right and wrong ones."""
    right = [(p.prompt, p.answer[:n]) for p, n in zip(problems, (1, 5, 10, 15), strict=False)]
    return [*right, (problems[4].prompt, "0"), (problems[5].prompt, "99"), ("", "by 2")]


def expected(model, pairs, **options):
    ids = [(ENCODE(a or "<|startoftext|>"), ENCODE(b)) for a, b in pairs]
    return dpad.loglikelihood(model, ids, micro_batch=1, **options)


@pytest.mark.parametrize("batch_size", [1, 40])
def test_values_and_errors_are_those_of_dpad(either, pairs, ask, batch_size, caplog):
    lm = DPadLM(*either, batch_size=batch_size, mc_samples=8, cfg_scale=0.5)
    found = lm.loglikelihood(ask("loglikelihood", *pairs), disable_tqdm=True)
    wanted = expected(either[0], pairs, samples=8, cfg_scale=0.5)
    assert [v for v, _ in found] == pytest.approx(wanted.value.tolist(), rel=1e-5)
    assert [greedy for _, greedy in found] == [False] * 7
    assert "is_greedy is not computed" in caplog.text
    entries = lm.record.requests
    errors = wanted.standard_error.tolist()
    assert [e["standard_error"] for e in entries] == pytest.approx(errors, rel=1e-4, abs=1e-9)
    assert [e["canvases"] for e in entries] == wanted.canvases.tolist()
    assert [(e["task"], e["document"]) for e in entries] == [("task", n) for n in range(7)]
    summary = lm.record.summary()["loglikelihood"]
    assert summary["standard_error_max"] == max(e["standard_error"] for e in entries) > 0


def fill(model, prompt, length, shift):
    """One token at a time on the model's own forward, the surest masked position first; with
    block-causal attention on whole blocks, from left to right.
    """
    block = getattr(model.config, "block_size", None)
    if block is not None:
        return fill_blocks(model, prompt, length, block)
    ids = torch.tensor([prompt + [dpad.demo.MASK_ID] * length])
    for _ in range(length):
        with torch.no_grad():
            logits = model(ids).logits[0]
        if shift:
            logits = torch.cat((logits[:1], logits[:-1]))
        logits[:, dpad.demo.MASK_ID] = -math.inf
        best = logits.softmax(-1).max(-1)
        masked = ids[0] == dpad.demo.MASK_ID
        at = int(best.values.where(masked, torch.tensor(-1.0)).argmax())
        ids[0, at] = best.indices[at]
    return ids[0, len(prompt) :].tolist()


def fill_blocks(model, prompt, length, block):
    end = -(-(len(prompt) + length) // block) * block
    ids = torch.tensor([prompt + [dpad.demo.MASK_ID] * (end - len(prompt))])
    for start in range(len(prompt) // block * block, end, block):
        part = ids[0, start : start + block]
        while bool((part == dpad.demo.MASK_ID).any()):
            with torch.no_grad():
                logits = model(ids[:, : start + block]).logits[0, start:]
            logits[:, dpad.demo.MASK_ID] = -math.inf
            best = logits.softmax(-1).max(-1)
            at = int(best.values.where(part == dpad.demo.MASK_ID, -1.0).argmax())
            part[at] = best.indices[at]
    return ids[0, len(prompt) : len(prompt) + length].tolist()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_is_greedy_is_the_published_fill(either, problems, ask, batch_size):
    model, _ = either
    shift = type(model).__name__ == "DreamModel"
    answers = []
    for number, problem in enumerate(problems[:6]):
        prompt = ENCODE(problem.prompt)
        answer = dpad.demo.decode(fill(model, prompt, (12, 6)[number % 2], shift))
        wrong = answer[:-1] + ("1" if answer[-1] != "1" else "2")
        answers.append((problem.prompt, (answer, answer, wrong)[number % 3]))
    # An end within the answer: what stands behind it is compared as well.
    answers.append((problems[7].prompt, problems[7].answer + "<|endoftext|>aa"))
    lm = DPadLM(*either, batch_size=batch_size, mc_samples=2, greedy_fill=True)
    found = lm.loglikelihood(ask("loglikelihood", *answers))
    assert [greedy for _, greedy in found] == [True, True, False] * 2 + [False]


def test_a_text_that_fits_is_one_window(either, problems, ask):
    texts = [p.answer[:n] for p, n in zip(problems, (15, 20), strict=False)]
    lm = DPadLM(*either, mc_samples=4)
    found = lm.loglikelihood_rolling(ask("loglikelihood_rolling", *((t,) for t in (*texts, ""))))
    wanted = expected(either[0], [("", t) for t in texts], samples=4)
    assert found == pytest.approx([*wanted.value.tolist(), 0.0])
    assert [e["windows"] for e in lm.record.requests] == [1, 1, 0]


def test_windows_cover_a_long_text_once(either, problems, ask):
    text = (problems[0].answer + problems[1].answer)[:33]
    ids = ENCODE(text)
    windows = [([0], ids[:9]), (ids[8:9], ids[9:18]), (ids[17:18], ids[18:27])]
    windows.append((ids[23:27], ids[27:]))  # the last window is full, too
    lm = DPadLM(*either, mc_samples=4, max_length=10)
    found = lm.loglikelihood_rolling(ask("loglikelihood_rolling", (text,)))
    wanted = dpad.loglikelihood(either[0], windows, samples=4)
    assert found == pytest.approx([float(wanted.value.sum())])
    entry = lm.record.requests[0]
    assert entry["windows"] == 4 and entry["canvases"] == int(wanted.canvases.sum())
    assert entry["standard_error"] == pytest.approx(float(wanted.standard_error.norm()))


def test_bad_pairs_are_named_before_anything_runs(demo, problems, ask, monkeypatch):
    lm = DPadLM(*demo, mc_samples=2, greedy_fill=True)
    monkeypatch.setattr(dpad.generation.likelihood, "_masks", lambda *_: pytest.fail("scored"))
    monkeypatch.setattr(lm, "decode", lambda *_: pytest.fail("filled"))
    long = problems[0].answer * 60
    with pytest.raises(ValueError, match=r"pairs\[1\]: prompt of 25 [+] answer of"):
        lm.loglikelihood(ask("loglikelihood", ("by", "1"), (problems[0].prompt, long)))
    with pytest.raises(ValueError, match=r"pairs\[0\] has an empty answer"):
        lm.loglikelihood(ask("loglikelihood", ("by", "")))
