"""A Ray cluster on this machine, and the server on two replicas."""

import importlib.util
import os
import socket
import time

import pytest

if not all(importlib.util.find_spec(name) for name in ("ray", "fastapi", "openai")):
    collect_ignore_glob = ["test_*.py"]  # `make test-ray` has them


@pytest.fixture(scope="session")
def cluster():
    """Ray with two CPUs, whatever this machine has."""
    # Other programs may fill the machine: Ray's monitor would end our actors for it. No token is
    # written to the user's home for a cluster that listens on this machine only.
    os.environ |= {"RAY_memory_monitor_refresh_ms": "0", "RAY_AUTH_MODE": "disabled"}
    os.environ |= {"RAY_metrics_report_interval_ms": "1000"}
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="warning")
    yield ray
    ray.shutdown()


class Replicas:
    """Two replicas behind one address: `url`, `client`, and `stats` of their engines."""

    def __init__(self, handle, url, client):
        self._handle, self.url, self.client = handle, url, client

    def each(self, count=2, seconds=60):
        """Replica -> its counts, once so many have answered: whom a call reaches is chance."""
        found, end = {}, time.monotonic() + seconds
        while len(found) < count:
            assert time.monotonic() < end, f"{len(found)} of {count} replicas answer"
            counts = self._handle.stats.remote().result()
            found[counts.pop("replica")] = counts
        return found

    def stats(self):
        """The sums over the replicas."""
        each = self.each().values()
        names = {name for counts in each for name in counts}
        return {name: sum(counts.get(name, 0) for counts in each) for name in names}


@pytest.fixture(scope="session")
def replicas(cluster):
    import openai
    from ray import serve

    from examples.ray.deployment import Options, build

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    options = Options(replicas=2, num_cpus=0.5, max_sequences=4, queue=16)
    handle = serve.run(build(options), name="default")
    url = f"http://127.0.0.1:{port}"
    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120)
    yield Replicas(handle, url, client)
    client.close()
    serve.shutdown()


@pytest.fixture(scope="session")
def server(replicas):
    """Under the name that the tests of one server use."""
    return replicas


@pytest.fixture
def client(replicas):
    return replicas.client


@pytest.fixture(scope="session")
def problems():
    import dpad

    return dpad.demo.problems(12, seed=3)
