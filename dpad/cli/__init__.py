"""The ``dpad`` command. Only `main` stands here, so that it can say what is missing."""

import sys
from collections.abc import Sequence

from dpad import threads

# Exit codes of every command; scripts may rely on them.
DONE, FAILED, USAGE, MODEL, MISSING, INTERRUPTED = 0, 1, 2, 3, 4, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; `arguments` default to those of the process.

    Returns or exits with 0 done; 1 failed (an operator disagrees, NaN logits, out of memory); 2 bad
    command line or value; 3 no such model or file, or not one that dpad knows; 4 a missing package;
    130 interrupted.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] != ["doctor"]:  # which reports what programs get by themselves
        threads.wait_passively()
    try:
        from dpad.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "click", "rich"):
            raise
        print(
            f"dpad: the command line needs {error.name}. Type:\n    pip install rich typer",
            file=sys.stderr,
        )
        return MISSING
    return app(arguments, prog_name="dpad")
