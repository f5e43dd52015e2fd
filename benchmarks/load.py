"""Clients of a completions server, and what they saw. Standard library only."""

import http.client
import json
import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

MOST = 512  # requests on their way at a time


@dataclass(frozen=True)
class Seen:
    """One request: HTTP status, seconds from its arrival to the first block and to the end, its
    tokens, its text; 0 and "" where it was refused.
    """

    status: int
    first: float
    end: float
    prompt_tokens: int
    tokens: int
    text: str


class Client:
    """Asks a server for streams of completions; one connection per thread, kept open.

    Args:
        url: of the server.
        model: its name there.
        options: further fields of every body.
    """

    def __init__(self, url, model, options):
        self._place, self._here = urlsplit(url), threading.local()
        self._fields = {"model": model, "stream": True, **options}
        self._fields["stream_options"] = {"include_usage": True}

    def ask(self, prompt, arrived=None):
        """The `Seen` of a prompt; `arrived`: when it was due (`time.perf_counter`), or now."""
        arrived = time.perf_counter() if arrived is None else arrived
        body = json.dumps({**self._fields, "prompt": prompt})
        try:
            response = self._answer(body)
        except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
            self._here.connection = None  # a server closes what was idle for some seconds
            response = self._answer(body)
        if response.status != 200:
            response.read()
            return Seen(response.status, 0.0, 0.0, 0, 0, "")
        return self._read(response, arrived)

    def _answer(self, body):
        if getattr(self._here, "connection", None) is None:
            place = self._place
            self._here.connection = http.client.HTTPConnection(
                place.hostname, place.port, timeout=600
            )
        headers = {"Content-Type": "application/json"}
        self._here.connection.request("POST", "/v1/completions", body, headers)
        return self._here.connection.getresponse()

    @staticmethod
    def _read(response, arrived):
        status, first, text, usage = 200, None, [], {}
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                status = 500  # an error on the way ends a stream
                break
            usage = chunk["usage"] or usage
            text += [choice["text"] for choice in chunk["choices"]]
            if first is None and any(text):
                first = time.perf_counter() - arrived
        end = time.perf_counter() - arrived
        response.read()
        counts = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
        return Seen(status, end if first is None else first, end, *counts, "".join(text))


def closed(client, prompts, clients):
    """(list of `Seen`, seconds) of clients that each ask again as soon as they have an answer."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seen = list(pool.map(client.ask, prompts))
    return seen, time.perf_counter() - begun


def poisson(client, prompts, rate, seed):
    """(list of `Seen`, seconds) of requests that arrive at random, `rate` a second.

    The arrivals of a Poisson process, given that so many come in that time, are uniform: so the
    load is as asked for, whatever `seed` draws. Whoever waits for a free thread here is timed from
    its arrival all the same.
    """
    draw, time_of_all = random.Random(seed), len(prompts) / rate
    due = sorted(draw.uniform(0.0, time_of_all) for _ in prompts)
    begun = time.perf_counter()
    with ThreadPoolExecutor(MOST) as pool:
        waiting = []
        for prompt, at in zip(prompts, due, strict=True):
            time.sleep(max(0.0, begun + at - time.perf_counter()))
            waiting.append(pool.submit(client.ask, prompt, begun + at))
        seen = [future.result() for future in waiting]
    return seen, time.perf_counter() - begun


def percentile(values, share):
    """The smallest value that so large a share of them does not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else 0.0


def summary(seen, seconds):
    """Figures under the names of vLLM's benchmark; "ttft" is the time to the first block."""
    good = [s for s in seen if s.status == 200]
    tokens, prompt = sum(s.tokens for s in good), sum(s.prompt_tokens for s in good)
    found = {
        "completed": len(good),
        "failed": len(seen) - len(good),
        "statuses": {str(code): n for code, n in _counted(s.status for s in seen)},
        "duration": seconds,
        "total_input_tokens": prompt,
        "total_output_tokens": tokens,
        "request_throughput": len(good) / seconds,
        "output_throughput": tokens / seconds,
        "total_token_throughput": (tokens + prompt) / seconds,
    }
    for name, values in (("ttft", [s.first for s in good]), ("e2el", [s.end for s in good])):
        found[f"mean_{name}_ms"] = 1e3 * statistics.fmean(values or [0.0])
        found[f"median_{name}_ms"] = 1e3 * percentile(values, 0.5)
        found[f"p99_{name}_ms"] = 1e3 * percentile(values, 0.99)
    return found


def _counted(values):
    values = list(values)
    return sorted((value, values.count(value)) for value in set(values))


LINES = (
    ("Successful requests:", "completed", "d"),
    ("Failed requests:", "failed", "d"),
    ("Benchmark duration (s):", "duration", ".2f"),
    ("Total input tokens:", "total_input_tokens", "d"),
    ("Total generated tokens:", "total_output_tokens", "d"),
    ("Request throughput (req/s):", "request_throughput", ".2f"),
    ("Output token throughput (tok/s):", "output_throughput", ".2f"),
    ("Total token throughput (tok/s):", "total_token_throughput", ".2f"),
    ("Time to First Token", None, None),
    ("Mean TTFT (ms):", "mean_ttft_ms", ".2f"),
    ("Median TTFT (ms):", "median_ttft_ms", ".2f"),
    ("P99 TTFT (ms):", "p99_ttft_ms", ".2f"),
    ("End-to-end Latency", None, None),
    ("Mean E2EL (ms):", "mean_e2el_ms", ".2f"),
    ("Median E2EL (ms):", "median_e2el_ms", ".2f"),
    ("P99 E2EL (ms):", "p99_e2el_ms", ".2f"),
)


def table(title, found):
    """The figures of `summary` as lines, in the form of ``vllm bench serve``."""
    lines = [f" {title} ".center(52, "=")]
    for label, name, form in LINES:
        if name is None:
            lines.append(label.center(52, "-"))
        else:
            lines.append(f"{label:<40} {found[name]:{form}}")
    return "\n".join([*lines, "=" * 52])
