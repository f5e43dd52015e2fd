"""``dpad doctor``."""

from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dpad import cli
from dpad.cli.common import Json, print_json

NAME = "doctor"
EXAMPLES = (
    "dpad doctor",
    "dpad doctor --json",
    "dpad doctor --model GSAI-ML/LLaDA-8B-Instruct --canvas 2048 --dtype bfloat16",
)
MIB = 2**20


def command(
    model: Annotated[
        str | None,
        typer.Option(help="Count memory for this repository, folder or 'demo'; it is not loaded."),
    ] = None,
    canvas: Annotated[int, typer.Option(help="Positions of the canvas to count for.")] = 1024,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    json_output: Json = False,
) -> None:
    """Show versions, compiled modules and devices, and check every operator against its twin.

    Takes a few seconds. One decoding of a small model shows whether memory is what is counted for
    it. Exit code 1 when an operator disagrees with its plain-torch twin. DPAD_ISA chooses the
    instruction set that is examined; DPAD_DISABLE=1 switches the kernels off.
    """
    from dpad.doctor import report

    found = report(model, canvas, dtype)
    if json_output:
        print_json(found)
    else:
        render(found, Console(highlight=False, soft_wrap=True))
    if not found["ok"]:
        raise typer.Exit(cli.FAILED)


def render(found: dict[str, Any], console: Console) -> None:
    """The report as text."""
    lines = [(name, value or "not installed") for name, value in found["versions"].items()]
    cuda = [f"{d['name']}, capability {d['capability']}" for d in found["cuda"]]
    processor = found["cpu"]
    lines += [
        ("build", found["build"] or "no compiled module"),
        *found["modules"].items(),
        ("CPU kernels", f"{processor['isa']} (supported: {_list(processor['supported'])})"),
        ("CPU of torch", f"{processor['torch']}, {processor['threads']} threads"),
        ("threads", _threads(found["threads"])),
        ("memory", _memory(found["memory"])),
        ("CUDA devices", _list(cuda)),
    ]
    if found["model"] is not None:
        lines.append(("model", _model(found["model"])))
    for name, value in lines:
        console.print(f"{name:<14} {value}", markup=False)
    console.print()
    console.print(_table(found["operators"]))
    for row in found["operators"]:
        if row["error"]:
            console.print(f"{row['operator']} ({row['dtype']}): {row['error']}", markup=False)
    for text in found["warnings"]:
        console.print(f"warning: {text}", style="yellow", markup=False)
    wrong = sorted({row["operator"] for row in found["operators"] if row["ok"] is False})
    verdict = f"these operators disagree with their twin: {', '.join(wrong)}" if wrong else "ok"
    console.print(f"{verdict} ({found['seconds']:.1f} s)", style="red" if wrong else "green")


def _threads(found: dict[str, float]) -> str:
    if found["team"] == 1:
        return "one"
    return (
        f"a small operation takes {found['one'] * 1e6:.0f} us with one, "
        f"{found['all'] * 1e6:.0f} us with {found['team']}"
    )


def _memory(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not looked at: Transformers is not installed"
    return f"{_counted(found)}; {_measured(found)}"


def _measured(found: dict[str, Any]) -> str:
    if found["measured"] is None:
        return "cannot be measured here"
    return f"{found['measured'] / MIB:.0f} MiB measured ({found['ratio']:.2f} times as much)"


def _model(found: dict[str, Any]) -> str:
    fits = {True: "fits into", False: "DOES NOT FIT into", None: "unknown:"}[found["fits"]]
    free = "free memory" if found["free"] is None else f"{found['free'] / MIB:,.0f} MiB free"
    return f"{found['name']}, {found['dtype']}: {_counted(found)}; {fits} {free}"


def _counted(found: dict[str, Any]) -> str:
    parts = ", ".join(f"{name} {found[name] / MIB:,.0f}" for name in ("weights", "kv", "pass"))
    total = f"{found['total'] / MIB:,.0f} MiB"
    return f"a canvas of {found['canvas']} takes {total} by count ({parts})"


def _list(values: Iterable[str]) -> str:
    return ", ".join(values) or "none"


def _table(rows: Iterable[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("operator", "device", "dtype", "runs on"):
        table.add_column(name, no_wrap=True)
    table.add_column("max error", justify="right", no_wrap=True)
    table.add_column("allowed", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        values = [row["operator"], row["device"], row["dtype"], row["where"]]
        error = "-" if row["max_error"] is None else f"{row['max_error']:.1e}"
        allowed = "-" if row["ok"] is None else f"{row['tolerance']:.1e}"
        state = {True: "[green]ok[/]", False: "[red]NOT OK[/]", None: "twin"}[row["ok"]]
        table.add_row(*values, error, allowed, state)
    return table
