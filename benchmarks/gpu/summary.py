"""Writes a results folder's summary.md, with goals, records and stages.

python -m benchmarks.gpu.summary FOLDER
"""

import json
import sys
from pathlib import Path

from benchmarks.gpu.figures import failed
from benchmarks.gpu.goals import evaluate
from benchmarks.report import table

SECONDS = ("seconds", "floor", "refresh_floor", "graph", "cold", "hot", "again", "busy", "gap")
HIDDEN = ("case", "kind", "model", "sizes", "operator", "took", "bytes")


def load(folder, name):
    """Content of a file, with its records; nothing where it is not there."""
    path = Path(folder) / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cases": []}


def shown(value, key):
    """A figure as text; `key` says whether it is a time."""
    if isinstance(value, dict):
        if "median" in value:
            return shown(value["median"], key)
        return ", ".join(f"{name} {shown(v, key)}" for name, v in value.items())
    if isinstance(value, list):
        return "; ".join(map(str, value))
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if key not in SECONDS:
        return f"{value:.3g}"
    return f"{1e6 * value:.1f} us" if value < 1e-3 else f"{1e3 * value:.2f} ms"


def machine_lines(found):
    if "machine" not in found:
        return ["Nothing was measured."]
    about, limits = found["machine"], found["limits"]
    names = ("device", "torch", "cuda", "python", "date", "commit")
    return [
        "* " + ", ".join(f"{name} {about.get(name)}" for name in names),
        f"* bandwidth {limits['bandwidth'] / 1e12:.2f} TB/s ({limits['source']}); a copy reaches "
        f"{about['copy_bytes_per_second'] / 1e12:.2f} TB/s, read and written",
    ]


def goal_rows(found):
    """Tiny shapes meet no goal."""
    small = found.get("machine", {"small": True}).get("small")
    for row in [] if small else evaluate(found["cases"], found["limits"]):
        value = f"{row['value']:.2f}" if "value" in row else ""
        yield [row["goal"], row["wanted"], value, row["status"], row.get("decision"), row["note"]]


def records_table(kind, records):
    """The records of a function: those that count, then why others do not."""
    some = [r for r in records if r["kind"] == kind]
    good = [r for r in some if failed(r) is None]
    names = [n for n in dict.fromkeys(n for r in good for n in r) if n not in HIDDEN]
    rows = [[r["case"], *(shown(r.get(name), name) for name in names)] for r in good]
    gone = [f"* not measured: {r['case']}: {failed(r)}" for r in some if r not in good]
    return [f"## {kind}", "", *([table(["", *names], rows), ""] if rows else []), *gone, ""]


def summary(found, stages):
    """The whole of summary.md."""
    head = ["goal", "wanted", "measured", "", "decision", ""]
    lines = ["# Measured on a GPU", "", "`python -m benchmarks.gpu` wrote this file.", ""]
    lines += [*machine_lines(found), "", "## Goals and expectations", ""]
    lines += ["They are an H100's, at the shape of LLaDA-8B.", ""]
    lines += [table(head, list(goal_rows(found))), ""]
    for kind in dict.fromkeys(r["kind"] for r in found["cases"]):
        lines += records_table(kind, found["cases"])
    rows = [[r["case"], failed(r) or "passed", r.get("took", "")] for r in stages["cases"]]
    lines += ["## Stages", "", table(["stage", "", "s"], rows)]
    return "\n".join(lines) + "\n"


def main(arguments=None):
    (folder,) = map(Path, sys.argv[1:] if arguments is None else arguments)
    found = load(folder, "figures")
    text = summary(found, load(folder, "stages"))
    (folder / "summary.md").write_text(text, encoding="utf-8")
    for name, wanted, value, status, decision, note in goal_rows(found):
        print(f"{name}: {status}, {value}, wanted {wanted}; {decision or note}")
    return 0 if found["cases"] else 1


if __name__ == "__main__":
    sys.exit(main())
