"""`dpad eval`: the harness's command line, and what it is told about a server."""

import pytest

import dpad.eval
from dpad.cli import evaluate


@pytest.fixture
def words(monkeypatch):
    """What the harness's command line was given."""
    found = []
    monkeypatch.setattr(dpad.eval, "main", found.extend)
    monkeypatch.setattr(evaluate, "only_model", lambda server: "demo")
    return found


def test_words_go_on_as_they_are(run, words):
    assert run("eval run --model dpad --tasks counting --limit 4").exit_code == 0
    assert words == ["run", "--model", "dpad", "--tasks", "counting", "--limit", "4"]


@pytest.mark.parametrize("chat", [False, True])
def test_a_server(run, words, chat):
    line = "eval --server http://127.0.0.1:9/ run --tasks counting"
    assert run(line + " --apply_chat_template" * chat).exit_code == 0
    told = dict(zip(words[-4::2], words[-3::2], strict=True))
    values = dict(pair.split("=") for pair in told["--model_args"].split(","))
    assert told["--model"] == ("local-chat-completions" if chat else "local-completions")
    path = "chat/completions" if chat else "completions"
    assert values["base_url"] == f"http://127.0.0.1:9/v1/{path}" and values["model"] == "demo"


def test_two_models_are_refused(run, words):
    result = run("eval --server http://127.0.0.1:9 run --model dpad")
    assert result.exit_code == 2 and "chooses --model" in result.stderr and not words


def test_nobody_answers(run):
    result = run("eval --server http://127.0.0.1:9 run")
    assert result.exit_code == 3 and "refused" in result.stderr
    assert "--server http://127.0.0.1:9: " in result.stderr
    result = run("eval --server nonsense run")
    assert result.exit_code == 2 and "--server nonsense: no list of models" in result.stderr
