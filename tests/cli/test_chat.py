"""`dpad chat`: the library's answers, turn after turn, and how they are shown."""

import io
import re

import pytest
from rich.console import Console

import dpad
from dpad.cli import chat, firming
from dpad.cli.conversation import Conversation, Piece
from dpad.prompting import encode_chat

ASK = "by 3 forward from"
OPTIONS = {"max_new_tokens": 96, "block_length": 16, "seed": 3}
LINE = "chat demo --prefill 4185e --max-new-tokens 96 --block-length 16 --seed 3"


@pytest.fixture(scope="module")
def demo():
    return dpad.demo.load()


@pytest.fixture
def talk(demo):
    config = dpad.DPadGenerationConfig(**OPTIONS, steps=24)
    found = Conversation(*demo, config, prefill="4185e")
    yield found
    found.close()


def library(demo, turns, **options):
    """The answer to a conversation whose last turn is the answer's given start."""
    model, tokenizer = demo
    ids = encode_chat(tokenizer, turns)
    out = dpad.generate(model, [ids], **{**OPTIONS, **options})[0, len(ids) :].tolist()
    end = tokenizer.eos_token_id
    return tokenizer.decode(out[: out.index(end) if end in out else None])


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def test_every_turn_is_told_what_was_said(run, demo):
    first = [user(ASK), assistant("4185e")]
    one = "4185e" + library(demo, first)
    second = [user(ASK), assistant(one), user("by 2 forward from"), assistant("4185e")]
    two = "4185e" + library(demo, second)
    assert two != "4185e" + library(demo, [user("by 2 forward from"), assistant("4185e")])
    lines = f"{ASK}\n\nby 2 forward from\n"
    assert run(LINE, stdin=lines).stdout == f"{one}\n{two}\n"
    found = run(LINE + " --json", stdin=lines).json
    assert found["turns"] == [*second[:3], assistant(two)]
    assert [a["tokens"] for a in found["answers"]] == [len(one) - 5, len(two) - 5]
    assert all(a["seed"] == 3 and a["forwards"] > 0 for a in found["answers"])


def test_clear_and_quit(run, demo):
    one = "4185e" + library(demo, [user(ASK), assistant("4185e")])
    result = run(LINE, stdin=f"{ASK}\n/clear\n{ASK}\n/quit\n{ASK}\n")
    assert result.exit_code == 0 and result.stdout == f"{one}\n{one}\n"


def test_without_a_template_there_is_no_history(run, folder):
    line = ["chat", str(folder), "--max-new-tokens", "24", "--seed", "1"]
    once = run(line, stdin="one two\n").stdout
    assert run(line, stdin="one two\none two\n").stdout == once * 2
    refused = run([*line, "--system", "short"], stdin="one\n")
    assert refused.exit_code == 2 and "--system" in refused.stderr


def test_a_prompt_that_is_refused_ends_nothing(run, demo):
    one = "4185e" + library(demo, [user(ASK), assistant("4185e")])
    result = run(LINE, stdin=f"{'a' * 2000}\n{ASK}\n")
    assert result.stdout == one + "\n" and "positions" in result.stderr


def test_drafts_turn_firm(talk):
    finished, firm, drafts = "", 0, 0
    for piece in talk.ask(ASK):
        if piece.text:
            finished, firm = finished + piece.text, 0
        if piece.draft:
            now = sum(is_firm for _, is_firm in piece.draft)
            assert now >= firm
            firm, drafts, last = now, drafts + 1, "".join(text for text, _ in piece.draft)
            assert talk.turns == []
    assert finished == "4185e4188d4191c4194b4197a" and finished.endswith(last)
    assert drafts == talk.figures["forwards"] and drafts > 4
    assert talk.turns == [user(ASK), assistant(finished)]


def test_an_interrupt_ends_one_answer(talk, monkeypatch, capsys):
    def interrupted(pieces, console):
        next(pieces), next(pieces)
        pieces.throw(KeyboardInterrupt)

    with monkeypatch.context() as patched:
        patched.setattr(firming, "show", interrupted)
        assert not chat.answered(talk, ASK, None)
    assert "forgotten" in capsys.readouterr().err and talk.turns == []
    assert chat.answered(talk, ASK, None) and len(talk.turns) == 2


def shown(pieces, **size):
    file = io.StringIO()
    size = {"width": 24, "height": 6, **size}
    console = Console(file=file, force_terminal=True, legacy_windows=False, **size)
    firming.show(iter(pieces), console)
    return file.getvalue()


def test_a_terminal_shows_what_may_change_dim():
    text = shown([Piece("", (("ab", True), ("cd", False))), Piece("abxy"), Piece("")])
    assert "ab\x1b[2mcd\x1b[0m" in text
    assert text.rstrip().endswith("abxy")


def test_paragraphs_are_written_once():
    pieces = [Piece("one\ntw"), Piece("", (("o", False),)), Piece("o\nthree"), Piece("")]
    lines = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]|\r", "", shown(pieces)).split("\n")
    assert [line for line in lines if line in ("one", "three")] == ["one", "three"]


def test_a_paragraph_longer_than_the_screen_is_whole_in_the_end():
    words = " ".join(f"word{n}" for n in range(40))
    text = shown([Piece(words), Piece("", (("!", False),)), Piece("")])
    drawn, _, whole = text.rpartition("\x1b[2K")
    assert whole.split() == words.split()
    assert "word0 " not in drawn and "word39" in drawn


def test_room_grows_with_what_was_said(talk):
    sizes = []
    for _ in range(3):
        list(talk.ask(ASK))
        sizes.append((talk._engine.max_tokens, id(talk._engine)))
    # Prompts of 25, 50 and 75 tokens, and a canvas of 96; twice, rounded to a power of two.
    assert [size for size, _ in sizes] == [256, 512, 512] and sizes[1] == sizes[2]
