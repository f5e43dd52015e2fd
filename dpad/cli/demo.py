"""``dpad demo``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dpad.cli.common import Json, check_writable, print_json, quiet_loading

NAME = "demo"
EXAMPLES = ("dpad demo", "dpad demo --seconds 4 --canvas 128 --no-picture --json")


def command(
    seconds: Annotated[float, typer.Option(help="Wall time of the race.")] = 10.0,
    canvas: Annotated[int, typer.Option(help="Generated tokens per problem, 64 to 900.")] = 512,
    picture: Annotated[
        Path | None, typer.Option(help="File to draw; default: dpad-demo.png here.")
    ] = None,
    no_picture: Annotated[bool, typer.Option("--no-picture", help="Draw nothing.")] = False,
    seed: Annotated[int, typer.Option(help="Of the problems.")] = 0,
    json_output: Json = False,
) -> None:
    """Race ordinary decoding against dpad on the shipped tiny model, then count what it cost.

    Half a minute on two cores. Without a terminal the panes become lines of text.
    """
    if no_picture and picture is not None:
        raise ValueError(f"--no-picture and --picture {picture} exclude each other")
    if picture is not None:
        check_writable("--picture", picture)
    from dpad.demo.show import demonstrate

    quiet_loading(always=True)
    wanted = False if no_picture else picture or True
    found = demonstrate(seconds, canvas, wanted, seed, None if json_output else Console())
    if json_output:
        print_json(found)
