"""``dpad plot``."""

from pathlib import Path
from typing import Annotated

import typer

from dpad.cli.common import Json, print_json

NAME = "plot"
EXAMPLES = ("dpad plot trace.jsonl", "dpad plot trace.jsonl --output picture.svg --row 0 --json")


def command(
    trace: Annotated[Path, typer.Argument(help="What dpad generate --trace wrote.")],
    output: Annotated[
        Path | None, typer.Option(help="PNG, SVG or PDF; default: the trace's name with .png.")
    ] = None,
    row: Annotated[int, typer.Option(help="Row of the batch.")] = 0,
    json_output: Json = False,
):
    """Draw a trace: kept slots of each block, and commits over time."""
    from dpad.generation.output import Trace
    from dpad.plot import overview

    output = output or trace.with_suffix(".png")
    overview(Trace.load(trace), row).savefig(output)
    if json_output:
        print_json({"picture": str(output)})
    else:
        typer.echo(str(output))
