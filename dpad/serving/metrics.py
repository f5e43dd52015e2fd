"""Metrics in Prometheus' form."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from dpad.engine import End, Engine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536)
ENDS = ("stop", "length", "criteria", "cancelled", "timeout", "failed", "refused")


class Metrics:
    """What an engine and its server do; in a registry of its own, so that servers do not mix."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Engine(engine))

        def histogram(name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"dpad_{name}", text, buckets=buckets, registry=self.registry)

        self.step_seconds = histogram("step_seconds", "Duration of a step.")
        self.step_sequences = histogram("step_sequences", "Sequences in a step.", COUNTS)
        self.step_positions = histogram("step_positions", "Positions computed in a step.", COUNTS)
        self.queue_seconds = histogram("queue_seconds", "From arrival until a place was free.")
        self.first_block_seconds = histogram("first_block_seconds", "Until the first block.")
        self.request_seconds = histogram("request_seconds", "From arrival until the end.")
        self.tokens_per_forward = histogram(
            "tokens_per_forward", "Tokens of an answer by its forwards.", COUNTS[:8]
        )
        self.tokens = Counter("dpad_tokens", "Tokens.", ["kind"], registry=self.registry)
        self.responses = Counter(
            "dpad_http_responses",
            "HTTP responses; 499: the client closed the connection.",
            ["code"],
            registry=self.registry,
        )
        engine.on_step = self.step

    def step(self, seconds: float, sequences: int, positions: int) -> None:
        """Told by the engine about every step."""
        self.step_seconds.observe(seconds)
        self.step_sequences.observe(sequences)
        self.step_positions.observe(positions)

    def end(self, event: End) -> None:
        """Told about the `End` of every answer."""
        usage, timings = event.usage, event.timings
        self.tokens.labels("prompt").inc(usage.prompt_tokens)
        self.tokens.labels("completion").inc(usage.completion_tokens)
        self.request_seconds.observe(timings.total)
        if timings.queued is not None:
            self.queue_seconds.observe(timings.queued)
        if timings.first_block is not None:
            self.first_block_seconds.observe(timings.first_block)
        if usage.forwards:
            self.tokens_per_forward.observe(usage.completion_tokens / usage.forwards)

    def text(self) -> bytes:
        """All of it, as a scraper reads it."""
        return generate_latest(self.registry)


class _Engine:
    """Reads an engine's own counts when they are asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._slot_bytes = engine.capacity().slot_bytes

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        held = self._slot_bytes * stats["kv_slots"]
        for name, text, value in (
            ("running", "Requests that are decoded.", stats["running"]),
            ("waiting", "Requests that wait for a place.", stats["waiting"]),
            ("kv_bytes", "K/V cache held by requests.", held),
            ("kv_bytes_max", "K/V cache.", self._slot_bytes * stats["max_tokens"]),
        ):
            yield GaugeMetricFamily(f"dpad_{name}", text, value=value)
        ended = CounterMetricFamily("dpad_requests", "Requests by how they ended.", labels=["end"])
        for name in ENDS:
            ended.add_metric([name], stats.get(name, 0))
        yield ended
        for name, text in (
            ("submitted", "Requests so far."),
            ("steps", "Steps so far."),
            ("passes", "Forward passes so far."),
            ("positions", "Positions computed so far."),
            ("shared", "Positions whose K/V came from another request's prompt."),
        ):
            yield CounterMetricFamily(f"dpad_{name}", text, value=stats[name])
