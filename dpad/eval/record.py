"""What an evaluation cost, and how sure its likelihoods are: the side channel of its results."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance

TYPES = ("generate_until", "loglikelihood", "loglikelihood_rolling")


class Record:
    """One entry per request, and sums over the calls of `generate`.

    An entry of "generate_until" holds task, document, prompt_tokens, generated_tokens (ids behind
    the prompt, counted before they become text, up to the first end id or stop string, without it),
    canvas_tokens, forwards and finish_reason; one of a likelihood its value and standard_error
    (nats) and the number of masked canvases that were computed.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.calls: list[dict[str, Any]] = []

    def call(self, timings: Mapping[str, float], rows: int) -> None:
        """Takes up the `timings` of one call of `generate` with `rows` rows."""
        self.calls.append({"rows": rows, **timings})

    def add(self, kind: str, request: Instance | None = None, **figures: Any) -> None:
        """An entry of one of `TYPES`; `request` is the harness's, see `name`."""
        self.requests.append({"type": kind, "task": None, "document": None, **figures})
        if request is not None:
            self.name([request])

    def name(self, requests: Sequence[Instance]) -> None:
        """Says which requests the last entries belong to."""
        last = self.requests[len(self.requests) - len(requests) :]
        for entry, request in zip(last, requests, strict=True):
            entry.update(task=request.task_name, document=request.doc_id)

    def summary(self) -> dict[str, Any]:
        """Per type of request: counts, sums and rates. Seconds are those within `generate`."""
        of_type = {kind: [r for r in self.requests if r["type"] == kind] for kind in TYPES}
        found = {kind: self._likelihoods(of_type[kind]) for kind in TYPES[1:] if of_type[kind]}
        if of_type["generate_until"]:
            found["generate_until"] = self._generations(of_type["generate_until"])
        return found

    def _generations(self, requests: Sequence[dict[str, Any]]) -> dict[str, Any]:
        names = ("prompt_tokens", "generated_tokens", "canvas_tokens", "forwards")
        sums = {name: sum(r[name] for r in requests) for name in names}
        spent = {name: sum(c[name] for c in self.calls) for name in self.calls[0] if name != "rows"}
        counts = {name: spent.pop(name) for name in ("positions", "passes", "replayed")}
        total = spent["total"]
        return {
            "requests": len(requests),
            **sums,
            **counts,
            "seconds": spent,
            "tokens_per_second": sums["generated_tokens"] / total,
            "tokens_per_forward": sums["generated_tokens"] / sums["forwards"],
            "seconds_per_request": total / len(requests),
        }

    @staticmethod
    def _likelihoods(requests: Sequence[dict[str, Any]]) -> dict[str, Any]:
        errors = [r["standard_error"] for r in requests]
        return {
            "requests": len(requests),
            "canvases": sum(r["canvases"] for r in requests),
            "standard_error_mean": sum(errors) / len(errors),
            "standard_error_max": max(errors),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes summary, calls and requests as JSON."""
        with open(path, "w", encoding="utf-8") as file:
            values = {"summary": self.summary(), "calls": self.calls, "requests": self.requests}
            json.dump(values, file, indent=1)
