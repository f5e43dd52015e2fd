"""dpad in the harness itself: objects, strings, the command, the example task, the document."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import torch

import dpad
from tests.examples.test_documents import run

pytest.importorskip("lm_eval", reason="lm-eval is not installed (requirements/eval.txt)")

import lm_eval
from lm_eval.tasks import TaskManager

from dpad.eval import DPadLM, register

ASSISTANT = "<|assistant|>"


@pytest.fixture
def at_root(root, monkeypatch):
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="module")
def tasks(root):
    return TaskManager(include_path=str(root / "examples" / "eval"), include_defaults=False)


def test_the_data_are_held_out_problems(root):
    lines = (root / "examples" / "eval" / "problems.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row, problem in zip(rows, dpad.demo.problems(100, seed=0), strict=True):
        assert problem.prompt.endswith(f"<|user|>{row['question']}{ASSISTANT}{row['state']}")
        assert row["answer"] == problem.answer


def test_an_object_is_evaluated_on_the_example(at_root, demo, tasks):
    lm = DPadLM(*demo, batch_size=8, max_new_tokens=64)
    found = lm_eval.simple_evaluate(
        model=lm, tasks=["counting"], task_manager=tasks, apply_chat_template=True, limit=20
    )
    samples = found["samples"]["counting"]
    right = []
    for sample, problem in zip(samples, dpad.demo.problems(20, seed=0), strict=True):
        assert sample["arguments"][0][0] == problem.prompt  # by the harness's template methods
        right.append(problem.check(sample["filtered_resps"][0]))
        assert sample["exact_match"] == right[-1]
    assert found["results"]["counting"]["exact_match,none"] == sum(right) / 20 >= 0.8
    ours = found["config"]["dpad"]
    assert ours["options"]["confidence_threshold"] == 0.9  # the variant's default
    assert ours["record"]["generate_until"]["requests"] == 20
    assert ours["record"]["generate_until"]["canvas_tokens"] == 20 * 128  # the task's
    assert found["config"]["model_num_parameters"] == sum(p.numel() for p in demo[0].parameters())
    json.dumps(found["config"]["dpad"])


def test_strings_make_the_same_model(at_root, tasks, tmp_path, monkeypatch):
    register()
    register()  # twice does no harm
    assert lm_eval.api.registry.get_model("dpad") is DPadLM
    made = []

    class Watched(DPadLM):
        def __init__(self, *args, **kwargs):
            made.append(self)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr("lm_eval.api.registry.get_model", lambda name: {"dpad": Watched}[name])
    record = tmp_path / "record.json"
    found = lm_eval.simple_evaluate(
        model="dpad",
        model_args="pretrained=demo,dtype=bfloat16,suffix=window,suffix_window=16,cache=prefix,"
        f"threshold=0.8,early_stop=False,batch_size=3,seed=7,record={record}",
        gen_kwargs="max_gen_toks=64",
        tasks=["counting"],
        task_manager=tasks,
        apply_chat_template=True,
        limit=4,
        device="cpu",
    )
    lm = made[0]
    assert lm.model.dtype == torch.bfloat16 and lm._handle is lm.model._dpad_handle
    assert lm.config.given() == {
        "cache": "prefix",
        "confidence_threshold": 0.8,
        "early_stop": False,
        "seed": 7,
        "suffix": dpad.Suffix("window", window=16),
    }
    saved = json.loads(record.read_text())
    assert saved["summary"] == found["config"]["dpad"]["record"]
    assert [call["rows"] for call in saved["calls"]] == [3, 1]
    assert {entry["canvas_tokens"] for entry in saved["requests"]} == {64}
    assert {entry["finish_reason"] for entry in saved["requests"]} == {"length"}


def command(path):
    """Words of the command of a document, behind the variables and the name of Python."""
    text = path.read_text(encoding="utf-8")
    line = re.search(r"```console\n(.*?python -m dpad.eval run .*?)\n```", text, re.DOTALL)[1]
    words = shlex.split(line)
    return words[words.index("-m") :]


def test_the_command_runs_without_a_network(root, tmp_path):
    words = command(root / "docs/evaluation.md")
    assert words == command(root / "examples/eval/README.md")
    results = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, *words, "--limit", "3", "--output_path", str(results)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(root), os.environ["PYTHONPATH"]))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\|counting\|.*\|exact_match\|", done.stdout)
    assert "so far: {'generate_until': {'requests': 3" in done.stdout + done.stderr
    saved = json.loads(next(tmp_path.glob("results*.json")).read_text())
    assert saved["config"]["dpad"]["record"]["generate_until"]["requests"] == 3


def test_the_document_runs(at_root, capsys):
    space = run("docs/evaluation.md")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    table = space["table"]
    full, thin = (suffix for suffix, early in table if early)
    for suffix in (full, thin):  # early stop changes no answer and saves work
        assert table[suffix, True][0] == table[suffix, False][0]
        assert table[suffix, True][1]["positions"] < table[suffix, False][1]["positions"]
    assert table[thin, True][1]["positions"] < table[full, True][1]["positions"]
    assert space["is_greedy"] and space["error"] > 0


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"batch_size": "auto"}, ValueError, "batch_size = 'auto': expected a whole number"),
        ({"max_batch_size": 8}, ValueError, "max_batch_size = 8"),
        ({"max_length": 1}, ValueError, "max_length = 1: expected a whole number >= 2"),
        ({"seed": None}, ValueError, "seed = None"),
        ({"trust_remote_code": True}, TypeError, "unknown option 'trust_remote_code'"),
        ({"row_keys": [1]}, ValueError, r"row_keys = \[1\]: the evaluation sets it itself"),
        ({"suffix": "window", "suffix_window": 0}, ValueError, "Suffix.window = 0"),
        ({"suffix": dpad.Suffix("all"), "suffix_near": 1}, ValueError, "give one of them"),
        ({"preset": "gsm8k"}, KeyError, "no preset 'gsm8k'"),
        ({"dtype": "bfloat16"}, ValueError, "the model has its own"),
        ({"mc_samples": 3}, ValueError, "mc_samples = 3: expected an even number"),
        ({"greedy_fill": "no"}, ValueError, "greedy_fill = 'no': expected True or False"),
        ({"tokenizer": "demo"}, ValueError, "tokenizer = 'demo': pass the model's tokenizer"),
    ],
)
def test_bad_arguments_are_named(demo, options, error, words):
    with pytest.raises(error, match=words):
        DPadLM(demo[0], **{"tokenizer": demo[1], **options})


def test_a_preset_and_what_overrides_it(demo):
    lm = DPadLM(*demo, preset="llada-1.5/mbpp", steps=64, suffix_near=4)
    published = dpad.presets.get("llada-1.5/mbpp")
    assert (lm.config.steps, lm.config.confidence_threshold) == (64, None)
    assert lm.config.max_new_tokens == published.max_new_tokens
    assert lm.config.suffix == dpad.Suffix("gaussian", near=4)
