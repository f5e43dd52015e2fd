"""Streams that are closed early leave nothing behind in the server's process."""

import http.client
import json
import os
import time
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from benchmarks.served import resident
from tests.serving.conftest import wait_for
from tests.serving.test_faults import launch

COUNT = int(os.environ.get("DPAD_CASES", "300"))  # 1,000 in the long form
WARM, PER_STREAM = 200, 5000  # bytes; 45,000 and 8,700 were measured while something was kept
BODY = {"model": "demo", "prompt": "by 3 forward from", "max_tokens": 64, "steps": 64}
BODY |= {"early_stop": False, "stream": True, "stream_options": {"drafts": True}}


def close_early(url, count):
    """Opens so many streams, and closes each after its first step."""
    place = urlsplit(url)
    for _ in range(count):
        connection = http.client.HTTPConnection(place.hostname, place.port)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(BODY), headers)
        response = connection.getresponse()
        response.read(20)
        response.close()
        connection.close()
    wait_for(lambda: "dpad_running 0.0" in httpx.get(url + "/metrics").text)
    time.sleep(0.5)


@pytest.mark.slow(reason="hundreds of streams")
def test_closed_streams_leave_nothing(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # how threads share several differs by run
    process, url = launch("--log-level", "error")
    try:
        close_early(url, WARM)
        before = resident(process)
        close_early(url, COUNT)
        grown = resident(process) - before
        found = httpx.get(url + "/metrics").text
        assert "dpad_kv_bytes 0.0" in found and "dpad_waiting 0.0" in found
        assert f'dpad_requests_total{{end="cancelled"}} {WARM + COUNT}.0' in found
        assert grown < PER_STREAM * COUNT, f"{grown / COUNT:.0f} bytes for each stream"
    finally:
        process.kill()
        process.wait()
