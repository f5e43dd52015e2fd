"""What goes wrong, and that nothing else is lost by it."""

import functools
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import openai
import pytest

import dpad
from dpad.serving import work
from tests.serving.conftest import served, wait_for
from tests.serving.test_answers import RANDOM

LONG = {"max_tokens": 512, "extra_body": {"steps": 512, "early_stop": False}}


def test_nan_ends_one_answer(byte_server, monkeypatch):
    """A bias of exactly 13 stands for a model that gives NaN for this request."""

    class Spoiled(work.LogitBias):
        def __call__(self, ids, scores):
            spoiled = float(self._values[0]) == 13.0
            return scores.fill_(float("nan")) if spoiled else super().__call__(ids, scores)

    monkeypatch.setattr(work, "LogitBias", Spoiled)
    ask = byte_server.client.completions.create
    alone = ask(model="demo", prompt="a", seed=1, **RANDOM).choices[0].text
    failed = byte_server.engine.stats().get("failed", 0)
    with ThreadPoolExecutor(6) as pool:
        good = [pool.submit(ask, model="demo", prompt="a", seed=1, **RANDOM) for _ in range(5)]
        with pytest.raises(openai.InternalServerError, match="NaNLogitsError") as caught:
            ask(model="demo", prompt="a", logit_bias={"65": 13}, **RANDOM)
    assert caught.value.status_code == 500 and caught.value.type == "server_error"
    assert [g.result().choices[0].text for g in good] == [alone] * 5
    with pytest.raises(openai.APIError, match="NaNLogitsError"):
        list(ask(model="demo", prompt="a", logit_bias={"65": 13}, stream=True, **RANDOM))
    assert byte_server.engine.stats()["failed"] == failed + 2
    assert byte_server.engine.stats()["kv_slots"] == 0


def test_a_body_of_100_mb(server):
    """Refused at its header; the connection does not have to be read to its end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100000000\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413")

        def send():
            part = b"x" * 2**16
            for _ in range(1600):
                connection.sendall(part)

        with pytest.raises(OSError):
            send()
    assert server.engine.stats()["submitted"] == 0


def test_killed_clients(byte_server):
    """Connections that end without a word, at any moment."""
    engine = byte_server.engine
    body = {"model": "demo", "prompt": "a", "stream": True, "max_tokens": 256, "steps": 256}

    def client(n):
        connection = http.client.HTTPConnection("127.0.0.1", byte_server.port)
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        time.sleep(0.002 * (n % 10))
        linger = b"\1\0\0\0\0\0\0\0"  # a reset instead of an orderly end
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.sock.close()

    with ThreadPoolExecutor(8) as pool:
        watched = pool.submit(
            byte_server.client.completions.create, model="demo", prompt="a", seed=4, **RANDOM
        )
        list(pool.map(client, range(200)))
    assert watched.result().choices[0].finish_reason
    wait_for(lambda: engine.stats()["running"] == engine.stats()["waiting"] == 0, 60)
    assert engine.stats()["kv_slots"] == 0


def test_a_broken_engine_is_told(byte_demo):
    with served(*byte_demo) as server:
        assert httpx.get(server.url + "/health").status_code == 200

        def fail(*_):
            raise MemoryError("broken on purpose")

        server.engine.on_step = fail
        with pytest.raises(openai.InternalServerError):
            server.client.completions.create(model="demo", prompt="a", **RANDOM)
        assert httpx.get(server.url + "/health").status_code == 503
        assert httpx.get(server.url + "/ready").status_code == 503


def launch(*words, model="demo"):
    """`dpad serve` in a process of its own, and its address once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dpad.cli", "serve", str(model), "--port", str(port), *words]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"

    def ready():
        assert process.poll() is None, process.stderr.read()
        try:
            return httpx.get(url + "/ready").status_code == 200
        except httpx.TransportError:
            return False

    wait_for(ready, 120)
    return process, url


def metric(url, name):
    """The value of a series without labels."""
    lines = httpx.get(url + "/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(name + " ")).split()[1])


def test_share_prefix(problems):
    """A prompt that a running request has, too, is not computed again; the answers are the same."""
    folder = dpad.demo.model_folder("tiny_sdar")
    process, url = launch("--log-level", "error", "--share-prefix", model=folder)
    try:
        client = openai.OpenAI(base_url=url + "/v1", api_key="x", max_retries=0)
        ask = functools.partial(
            client.completions.create, model=str(folder), prompt=problems[0].prompt
        )
        slow = {"early_stop": False, "confidence_threshold": 2.0}
        with ask(max_tokens=400, stream=True, extra_body=slow) as first:
            next(iter(first))
            assert ask(max_tokens=64).choices[0].text == problems[0].answer
            assert metric(url, "dpad_shared_total") > 0
    finally:
        process.kill()
        process.wait()


def test_sigterm_under_load(problems):
    """What has begun is finished, what comes later gets 503, then the process ends."""
    process, url = launch("--log-level", "error", "--drain", "60")
    try:
        client = openai.OpenAI(base_url=url + "/v1", api_key="x", max_retries=0)
        slow = {"steps": 96, "early_stop": False}
        answers, lock = [], threading.Lock()

        def ask(problem):
            answer = client.completions.create(
                model="demo", prompt=problem.prompt, max_tokens=96, extra_body=slow
            )
            with lock:
                answers.append((problem, answer.choices[0].text))

        threads = [threading.Thread(target=ask, args=(p,)) for p in problems]
        [t.start() for t in threads]
        text = lambda: httpx.get(url + "/metrics").text  # noqa: E731
        wait_for(lambda: f"dpad_submitted_total {len(problems)}.0" in text(), 60)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(url + "/ready").status_code == 503)
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model="demo", prompt="a")
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"]
        [t.join(120) for t in threads]
        assert len(answers) == len(problems)
        assert all(problem.answer == text for problem, text in answers)
        assert process.wait(30) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
