"""``dpad plot``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dpad.cli.common import Json, check_writable, print_json

NAME = "plot"
EXAMPLES = (
    "dpad plot trace.jsonl",
    "dpad plot trace.jsonl --output picture.svg --row 0 --json",
    "dpad plot trace.jsonl --view confidence --theme dark --output confidence.png",
    "dpad plot trace.jsonl --view animation --output denoising.gif",
    "dpad plot trace.jsonl --view animation --output denoising.html",
)


def command(
    trace: Annotated[Path, typer.Argument(help="What dpad generate --trace wrote.")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="PNG, SVG or PDF, an animation GIF or HTML; default: the trace's name with .png, "
            "or .gif."
        ),
    ] = None,
    view: Annotated[
        str,
        typer.Option(help="overview, kept, timeline, confidence, forwards or animation."),
    ] = "overview",
    row: Annotated[int, typer.Option(help="Row of the batch.")] = 0,
    theme: Annotated[str, typer.Option(help="light or dark.")] = "light",
    json_output: Json = False,
) -> None:
    """Draw a trace.

    overview: kept slots of each block above commits over time; kept and timeline: one of the two;
    confidence: how sure the commits were; forwards: what each block took; animation: the canvas as
    it was filled in.
    """
    from dpad.generation.output import Trace
    from dpad.plot import VIEWS, animate

    if view not in VIEWS and view != "animation":
        known = ", ".join(VIEWS)
        raise ValueError(f"--view {view}: expected {known} or animation")
    output = output or trace.with_suffix(".gif" if view == "animation" else ".png")
    endings = (".gif", ".html") if view == "animation" else (".png", ".svg", ".pdf")
    if output.suffix.lower() not in endings:
        known = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise ValueError(f"--output {output}: expected {known}")
    check_writable("--output", output)
    events = Trace.load(trace)
    if view == "animation":
        animate(events, output, row, theme=theme)
    else:
        drawn = VIEWS[view](events, row, theme=theme)
        figure: Any = getattr(drawn, "figure", drawn)
        figure.savefig(output)
    if json_output:
        print_json({"picture": str(output)})
    else:
        typer.echo(str(output))
