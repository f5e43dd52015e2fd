"""A trace out of a file: nothing in it is believed before it was looked at."""

import json
import math
import os
from typing import Any

from dpad.values import INT64, MOST_POSITIONS, MOST_ROWS, Kind, int64, real, refuse, whole

FORMAT = "dpad-trace"
VERSION = 1

_MOST_FORWARDS = 2**32
_length = whole(0, MOST_POSITIONS)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(header, events) of a file; errors as `Trace.load`."""
    header, events = None, []
    with open(path, encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, 1):
                record = _record(path, number, line)
                if header is None:
                    header = checked_header(record)
                else:
                    events.append(checked_event(record, header))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not a text in UTF-8 ({error})") from error
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if header is None:
        raise ValueError(f"{path}: empty, expected a dpad trace")
    return header, events


def _record(path: object, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    if not isinstance(record, dict):
        refuse("record", record, "an object")
    return record


def checked_header(header: dict[str, Any]) -> dict[str, Any]:
    """The header; ValueError if it is not that of a trace."""
    found = (header.get("format"), header.get("version"))
    if found != (FORMAT, VERSION):
        raise ValueError(f"format and version {found} are not a dpad trace's")
    prompts, config = header.get("prompt_lengths"), header.get("config")
    if not isinstance(prompts, list) or not 0 < len(prompts) <= MOST_ROWS:
        refuse("prompt_lengths", prompts, f"a list of 1 to {MOST_ROWS} lengths")
    for row, length in enumerate(prompts):
        _length(f"prompt_lengths[{row}]", length)
    if not isinstance(config, dict):
        refuse("config", config, "an object of options")
    whole(1, MOST_POSITIONS)("config.max_new_tokens", config.get("max_new_tokens"))
    whole(1)("config.block_length", config.get("block_length"))
    whole(1, MOST_POSITIONS)("new_tokens", new_tokens(header))
    int64("seed", header.get("seed"))
    texts = header.get("texts", {})
    if not isinstance(texts, dict) or not all(isinstance(t, str) for t in texts.values()):
        refuse("texts", texts, "an object of texts")
    return header


def new_tokens(header: dict[str, Any]) -> Any:
    """The most positions of a row behind its `prompt_lengths`."""
    return header.get("new_tokens", header["config"]["max_new_tokens"])


def checked_event(event: dict[str, Any], header: dict[str, Any]) -> dict[str, Any]:
    """One event; ValueError if it is not one of this header's run."""
    prompts, config = header["prompt_lengths"], header["config"]
    row = whole(0, len(prompts) - 1)("row", event.get("row"))
    start, end = prompts[row], prompts[row] + new_tokens(header)
    whole(0, _MOST_FORWARDS)("forward", event.get("forward"))
    blocks = math.ceil(new_tokens(header) / config["block_length"])
    span = event.get("span")
    whole(0, (blocks if span is None else end) - 1)("block", event.get("block"))
    if span is not None:
        _list("span", span, whole(0, end))
        if len(span) != 2 or span[0] >= span[1]:
            refuse("span", span, f"[start, end] of the block, up to {end}")
    positions = _list("positions", event.get("positions"), whole(start, end - 1))
    for name, kind in (("tokens", whole(0)), ("confidence", real(0, 1))):
        if len(_list(name, event.get(name), kind)) != len(positions):
            refuse(name, event[name], f"as many as positions, {len(positions)}")
    if event.get("kept") is not None:
        _list("kept", event["kept"], whole(start, end - 1))
    for i, run in enumerate(_list("canvas", event.get("canvas", []), lambda _, run: run)):
        first, count = _list(f"canvas[{i}]", run, int64)[:2] if len(run) == 2 else (-2, 0)
        if first < -1 or not 0 < count <= end or first + count > end:
            refuse(f"canvas[{i}]", run, f"[position or -1, count], below {end}")
    real(0, INT64[-1])("time", event.get("time"))
    return event


def _list(name: str, values: Any, kind: Kind) -> list[Any]:
    if not isinstance(values, list):
        refuse(name, values, "a list")
    return [kind(f"{name}[{i}]", value) for i, value in enumerate(values)]
