"""What all commands share: errors to exit codes, JSON, examples in the help."""

import contextlib
import errno
import functools
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from dpad import cli

# What is missing -> what to install, where one module does not come alone.
_SERVER = "fastapi uvicorn prometheus-client"
TOGETHER = {"fastapi": _SERVER, "uvicorn": _SERVER, "prometheus_client": _SERVER}

FULL = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def examples(lines: Iterable[str]) -> str:
    """Epilogue of a help text, in Markdown: one example a line."""
    return "\n\n".join(("Examples:", *(f"* `{line}`" for line in lines)))


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def guarded(command: Callable[..., T]) -> Callable[..., T]:
    """`command` with every expected error turned into one line on stderr and an exit code.

    With ``--json`` the error is an object on stdout: ``{"error": {"type", "message"},
    "exit_code"}``.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> T:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(cli.INTERRUPTED) from None
        except Exception as error:
            code = exit_code(error)
            if code is None:
                raise
            report(error, code, kwargs.get("json_output", False))
            raise typer.Exit(code) from error

    return run


def exit_code(error: BaseException) -> int | None:
    """The exit code that stands for an exception, or None: it is a defect, or not ours."""
    # By name: importing the classes here would hide the error where an import is what failed.
    names = {parent.__name__ for parent in type(error).__mro__}
    if isinstance(error, (typer.Exit, typer.Abort, BrokenPipeError)):
        return None
    if isinstance(error, ModuleNotFoundError):
        return cli.MISSING
    if isinstance(error, OSError) and error.errno in FULL:
        return cli.FAILED
    if "UnsupportedModelError" in names or isinstance(error, OSError):
        return cli.MODEL
    if isinstance(error, (ValueError, TypeError)):
        return cli.USAGE
    if "NaNLogitsError" in names or isinstance(error, MemoryError):
        return cli.FAILED
    return None


def report(error: Exception, code: int, as_json: bool) -> None:
    """Shows an error: one line, or JSON."""
    message = str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        package = TOGETHER.get(module, module)
        message += f"; type: pip install {package}"
    if as_json:
        found = {"error": {"type": type(error).__name__, "message": message}, "exit_code": code}
        with contextlib.suppress(OSError):  # a full disk; stderr may still be read
            print_json(found)
            return
    typer.echo(f"dpad: {message}", err=True)


def quiet_loading(always: bool = False) -> None:
    """Keeps Transformers' loading bars away from logs; a terminal shows them unless `always`."""
    if always or not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()


def check_writable(option: str, path: Path) -> None:
    """ValueError if a file cannot be written there, before there is anything to write."""
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise ValueError(f"{option} {path}: that is a folder, expected a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{option} {path}: no permission to write there")
