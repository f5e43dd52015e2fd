"""An answer in a terminal: finished text stays, the draft behind it is drawn anew every step."""

from collections.abc import Iterable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dpad.cli.conversation import Piece


def show(pieces: Iterable[Piece], console: Console | None) -> None:
    """Shows the `Piece`s of an answer on a rich Console; None only takes them.

    Without a terminal only finished text is printed, as it comes.
    """
    if console is None:
        for _ in pieces:
            pass
    elif console.is_terminal and not console.is_dumb_terminal:
        _draw(pieces, console)
    else:
        for piece in pieces:
            if piece.text:
                console.out(piece.text, end="")
                console.file.flush()
        console.out()


def _draw(pieces: Iterable[Piece], console: Console) -> None:
    """Whole paragraphs go up into the terminal's history; the last one is drawn again and again."""
    paragraph = ""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for piece in pieces:
            *whole, paragraph = (paragraph + piece.text).split("\n")
            live.update(_last_lines(paragraph, piece.draft, console))
            for line in whole:
                console.print(Text(line))
            live.refresh()
        live.update(Text(""), refresh=True)
    console.print(Text(paragraph))


def _last_lines(paragraph: str, draft: Iterable[tuple[str, bool]], console: Console) -> Text:
    """The end of a paragraph and its draft, as much as the terminal can show."""
    text = Text(paragraph)
    for part, firm in draft:
        text.append(part, None if firm else "dim")
    lines = text.wrap(console, console.width)
    return Text("\n").join(lines[-max(1, console.height - 2) :])
