"""``dpad chat``."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from dpad.cli.common import Json, print_json
from dpad.cli.decoding import Load, Model, asks, configured, loader

if TYPE_CHECKING:
    from dpad.cli.conversation import Conversation
    from dpad.generation.config import DPadGenerationConfig

NAME = "chat"
EXAMPLES = (
    "dpad chat demo --prefill 4185e",
    'dpad chat GSAI-ML/LLaDA-8B-Instruct --system "Answer in one sentence." '
    "--max-new-tokens 256 --block-length 32",
)
WORDS = "/clear forgets what was said, /quit or Ctrl-D leaves, Ctrl-C ends an answer"


@asks(config=configured, load=loader)
def command(
    model: Model,
    config: "DPadGenerationConfig",
    load: Load,
    system: Annotated[str, typer.Option(help="Text of a system turn.")] = "",
    prefill: Annotated[str, typer.Option(help="Given start of every answer.")] = "",
    raw: Annotated[bool, typer.Option("--raw", help="No chat template, and no history.")] = False,
    json_output: Json = False,
) -> None:
    """Talk with a model; blocks appear as they are decoded.

    In a terminal the current block is shown as it looks now: dim while it may change, firm once it
    is committed. Otherwise prompts are read from stdin, one a line, and finished blocks printed.
    /clear forgets what was said, /quit leaves; Ctrl-C ends an answer, which is forgotten.
    """
    from dpad.cli.conversation import Conversation

    loaded, tokenizer = load()
    talk = Conversation(loaded, tokenizer, config, system, prefill, raw)
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not json_output
    if interactive:
        typer.echo(WORDS, err=True)
    answers: list[dict[str, Any]] = []
    with contextlib.closing(talk):
        for prompt in prompts(interactive):
            if prompt == "/clear":
                talk.clear()
            elif answered(talk, prompt, None if json_output else Console(highlight=False)):
                answers.append(talk.figures)
    if json_output:
        print_json({"model": model, "turns": talk.turns, "answers": answers})


def prompts(interactive: bool) -> Iterator[str]:
    """Lines of the user, up to /quit or the end."""
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (arrows and history in `input`)
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            return
        if line == "/quit":
            return
        if line:
            yield line


def answered(talk: "Conversation", prompt: str, console: Console | None) -> bool:
    """Shows one answer on a rich Console, or nothing for None; False where there was none."""
    from dpad.cli.firming import show

    try:
        show(talk.ask(prompt), console)
    except KeyboardInterrupt:
        typer.echo("ended; this turn is forgotten", err=True)
        return False
    except ValueError as error:  # this prompt is refused, too long for example
        typer.echo(f"dpad: {error}", err=True)
        return False
    if console is not None and console.is_terminal:
        found = talk.figures
        text = f"{found['tokens']} tokens, {found['forwards']} forwards, {found['seconds']:.2f} s"
        console.print(text, style="dim")
    return True
