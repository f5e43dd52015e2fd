"""The commands, put together."""

from typing import Annotated

import typer

import dpad
from dpad.cli import chat, demo, doctor, evaluate, generate, plot, serve
from dpad.cli.common import examples, guarded

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Exit codes: 0 done; 1 failed (an operator disagrees, NaN logits, out of memory); 2 bad "
    "command line or value; 3 no such model or file, or not one that dpad knows; 4 a missing "
    "package; 130 interrupted. Every command takes --json.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(dpad.__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Suffix dropout, caches and parallel decoding for masked-diffusion language models."""


for _module in (doctor, generate, chat, demo, plot, serve, evaluate):
    app.command(
        _module.NAME,
        epilog=examples(_module.EXAMPLES),
        context_settings=getattr(_module, "SETTINGS", None),
    )(guarded(_module.command))
