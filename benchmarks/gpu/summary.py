"""Writes a results folder's summary.md, and the answers of its measurements as a document.

    python -m benchmarks.gpu.summary FOLDER
    python -m benchmarks.gpu.summary FOLDER --document docs/gpu_measurements.md

Only figures that a GPU gave become a document.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.gpu.goals import FILES, evaluate, measured


def table(header, rows):
    """Markdown lines."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines] + [""]


def load(folder):
    """Name -> content of the results that are there, and of report.json."""
    paths = {name: Path(folder) / f"{name}.json" for name in (*FILES, "report")}
    return {n: json.loads(p.read_text(encoding="utf-8")) for n, p in paths.items() if p.exists()}


def machine_lines(files):
    found = next((files[n]["machine"] for n in FILES if n in files), None)
    if found is None:
        return ["Nothing was measured.", ""]
    limits = next(files[n]["limits"] for n in FILES if n in files)
    lines = [
        f"* {found['device']}, torch {found['torch']}, CUDA {found['cuda']}, Python "
        f"{found['python']}, {found['date']}, commit {found['commit'] or 'unknown'}",
        f"* bandwidth {limits['bandwidth'] / 1e12:.2f} TB/s ({limits['source']}); a copy reaches "
        f"{found['copy_bytes_per_second'] / 1e12:.2f} TB/s, read and written",
    ]
    return [*lines, ""]


def goal_lines(files):
    rows = []
    for goal in evaluate(files):
        sign = "<=" if goal["at_most"] else ">="
        value = f"{goal['value']:.2f}" if "value" in goal else ""
        scaled = f"{sign} {goal['scaled']:.2f}" if "scaled" in goal else ""
        wanted = f"{sign} {goal['goal']:g} {goal['unit']}"
        rows.append([goal["name"], wanted, value, goal["status"], scaled, goal["note"]])
    header = ["goal", "on an H100", "measured", "", "by bandwidth here", ""]
    text = ["Goals are an H100's, at the shape of LLaDA-8B. What they would be by the bandwidth of"]
    text.append("another device is information only.")
    return ["## Goals", "", *text, "", *table(header, rows)]


def operator_lines(files):
    good, gone = measured(files, "operators")
    rows, missing = [], {}
    for case in good:
        ours = case["seconds"]["dpad"]
        peer = case["best_peer"]
        rows.append(
            [
                case["name"],
                f"{1e6 * ours['median']:.1f}",
                f"{1e6 * case['floor']:.1f}",
                f"{case['share_of_bandwidth']:.0%}",
                f"{case['share_of_copy']:.0%}",
                "" if peer is None else f"{peer} {1e6 * case['seconds'][peer]['median']:.1f}",
                "" if peer is None else f"{case['speed_up']:.2f}x",
                f"{ours['noise']:.0%}",
            ]
        )
        for name, reason in case["unavailable"].items():
            missing.setdefault(f"{name}: {reason}", []).append(case["name"])
    header = ["operator, L2 cold", "us", "floor", "of bandwidth", "of a copy's", "best peer, us"]
    lines = table([*header, "", "noise"], rows)
    lines += [f"* {text} ({len(names)} cases)" for text, names in missing.items()]
    return ["## Operators", "", *lines, *_gone(gone)]


def step_lines(files):
    good, gone = measured(files, "step")
    rows = []
    for case in good:
        t = {name: f"{1e3 * seconds:.2f}" for name, seconds in case["seconds"].items()}
        kinds = ("step, graph", "step, graph, fused", "step, eager", "step, plain torch")
        more = ("refresh", "refresh, fused", "refresh, plain torch")
        rows.append(
            [case["model"], f"{case['batch']} x {case['keys']}", f"{1e3 * case['floor']:.2f}"]
            + [t.get(kind, "") for kind in kinds]
            + [f"{case['speed_up']:.2f}x" if "speed_up" in case else case["plain_torch"]]
            + [f"{1e3 * case['refresh_floor']:.2f}"]
            + [t.get(kind, "") for kind in more]
        )
    header = ["model", "sequences x keys", "floor", "graph", "graph, fused", "eager", "plain torch"]
    header += ["", "refresh: floor", "dpad", "fused", "plain torch"]
    return ["## One cached step, ms", "", *table(header, rows), *_gone(gone)]


def decoding_lines(files):
    lines = ["## Whole decodings through generate", ""]
    rows, notes = [], []
    for name in ("generate", "throughput"):
        good, gone = measured(files, name)
        for case in good:
            if case["kind"] == "check":
                shown = {k: v for k, v in case.items() if k not in ("name", "kind", "took")}
                notes.append(f"* {case['name']}: {json.dumps(shown)}")
                continue
            t = case["seconds"]
            plain = t.get("plain torch")
            rows.append(
                [case["model"], case["batch"], case["keys"], case["per_step"]]
                + [f"{case['tokens_per_second']:.0f}", f"{case['floor'] / t['dpad']:.0%}"]
                + ["", ""] * (plain is None)
                + ([f"{1e3 * plain:.0f}", f"{case['speed_up']:.2f}x"] if plain else [])
                + ["; ".join(case["graphs"]) or "not reported"]
            )
        notes += _gone(gone)
    header = ["model", "batch", "keys", "tokens per step", "tokens/s", "of the floor's speed"]
    header += ["plain torch, ms", "", "graphs, by the handle"]
    return [*lines, *table(header, rows), *notes, ""]


def step_report(files):
    rows = [
        [name, record["status"], record.get("seconds", ""), record.get("reason", "")]
        for name, record in files.get("report", {}).items()
    ]
    return ["## Steps of the program", "", *table(["step", "status", "s", ""], rows)]


def answer_rows(files):
    found = files.get("measurements", {}).get("answers") or []
    words = {True: "holds", False: "does not hold", None: "not decided"}
    rows = [[a["number"], a["title"], words[a["holds"]], a["decision"]] for a in found]
    return ["## Measurements", "", *table(["", "measured", "expectation", "decision"], rows)]


def _gone(gone):
    return [f"* not measured: {text}" for text in gone] + [""]


def summary(files):
    """The whole of summary.md."""
    lines = ["# Measured on a GPU", "", "`python -m benchmarks.gpu` wrote this file.", ""]
    parts = (machine_lines, goal_lines, step_lines, decoding_lines, operator_lines, answer_rows)
    for part in (*parts, step_report):
        lines += part(files)
    return "\n".join(lines).rstrip() + "\n"


def document(files):
    """The answers of the measurements as one document.

    Raises:
        ValueError: there are none, or no GPU gave them.
    """
    found = files.get("measurements", {})
    if not found.get("answers"):
        raise ValueError("measurements.json holds no answers")
    if found["machine"]["device"] == "cpu":
        raise ValueError("measurements.json was written without a GPU")
    lines = ["# What a GPU answered", "", *machine_lines(files)]
    lines += ["`python -m benchmarks.gpu.measurements` measured, `benchmarks.gpu.summary` wrote."]
    lines += ["Expectations were made beforehand, for an H100.", ""]
    words = {True: "yes", False: "no", None: "not decided"}
    for answer in found["answers"]:
        lines += [f"## {answer['number']}. {answer['title']}", ""]
        lines += [f"* expected: {answer['expectation']}", f"* else: {answer['otherwise']}"]
        lines += [f"* holds: {words[answer['holds']]}", f"* decision: {answer['decision']}", ""]
        lines += [f"    {text}" for text in answer["figures"]] + [""] * bool(answer["figures"])
        lines += [f"    not measured: {text}" for text in answer["not_measured"]]
        lines += [""] * bool(answer["not_measured"])
    return "\n".join(lines).rstrip() + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.summary")
    parser.add_argument("folder", type=Path, help="folder of the results")
    parser.add_argument("--document", type=Path, help="write the measurements' answers here too")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is not a folder")
    files = load(options.folder)
    (options.folder / "summary.md").write_text(summary(files), encoding="utf-8")
    goals = evaluate(files)
    text = json.dumps(goals, indent=1) + "\n"
    (options.folder / "goals.json").write_text(text, encoding="utf-8")
    for goal in goals:  # so that the program's report holds them
        value = f"{goal['value']:.2f}" if "value" in goal else goal["note"]
        print(f"{goal['name']}: {goal['status']}, {value}, goal {goal['goal']:g} {goal['unit']}")
    if options.document is not None:
        try:
            text = document(files)
        except ValueError as error:
            parser.error(str(error))
        options.document.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
