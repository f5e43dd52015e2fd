"""The metrics agree with what was done."""

import httpx2 as httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.conftest import served
from tests.serving.test_answers import RANDOM


def values(url):
    """(name, labels) -> value."""
    response = httpx.get(url + "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(response.text)
    return {
        (s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples
    }


def test_counts(byte_demo):
    with served(*byte_demo) as server:
        ask = server.client.completions.create
        whole = [ask(model="demo", prompt="hello", seed=n, n=2, **RANDOM) for n in range(3)]
        list(ask(model="demo", prompt="hello", seed=1, stream=True, **RANDOM))
        found, stats = values(server.url), server.engine.stats()
    tokens = sum(a.usage.completion_tokens for a in whole)
    forwards = sum(sum(a.dpad["forwards"]) for a in whole)
    assert found["dpad_submitted_total",] == 7 == found["dpad_request_seconds_count",]
    ends = ("stop", "length", "criteria")
    assert sum(found["dpad_requests_total", end] for end in ends) == 7
    assert found["dpad_tokens_total", "prompt"] == 7 * len("hello")
    assert found["dpad_tokens_total", "completion"] > tokens
    assert found["dpad_steps_total",] == found["dpad_step_seconds_count",] == stats["steps"]
    assert found["dpad_step_sequences_sum",] > forwards
    assert found["dpad_step_positions_sum",] == stats["positions"]
    assert found["dpad_queue_seconds_count",] == found["dpad_first_block_seconds_count",] == 7
    assert found["dpad_tokens_per_forward_count",] == 7
    assert found["dpad_kv_bytes",] == 0
    # K and V of 2 layers, 2 heads of 16 numbers, 4 bytes each.
    assert found["dpad_kv_bytes_max",] == 8192 * 2 * 2 * 32 * 4
    assert found["dpad_http_responses_total", "200"] == 4
    assert found["dpad_running",] == found["dpad_waiting",] == 0
