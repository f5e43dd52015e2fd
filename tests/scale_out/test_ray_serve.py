"""Two replicas on Ray Serve answer as one server does; one that dies takes nobody with it."""

import os
import signal
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from examples.ray.deployment import FULL, by_load
from tests.serving import test_answers, test_errors, test_streams

# The tests of one server, on two replicas.
test_completions = test_answers.test_completions
test_chat_continues_the_assistant = test_answers.test_chat_continues_the_assistant
test_content_in_parts = test_answers.test_content_in_parts
test_several_prompts_and_token_ids = test_answers.test_several_prompts_and_token_ids
test_models = test_answers.test_models
test_blocks_make_the_answer = test_streams.test_blocks_make_the_answer
test_chat_chunks_and_usage = test_streams.test_chat_chunks_and_usage
test_the_stream_ends_with_done = test_streams.test_the_stream_ends_with_done
test_hostile_bodies_are_a_400 = test_errors.test_hostile_bodies_are_a_400
test_bad_conversations_are_a_400 = test_errors.test_bad_conversations_are_a_400
test_classes_of_the_client = test_errors.test_classes_of_the_client

LONG = {"max_tokens": 512, "extra_body": {"steps": 512, "early_stop": False}}
SLOW = {"max_tokens": 96, "extra_body": {"steps": 96, "early_stop": False}}
RANDOM = {"temperature": 2.0, "max_tokens": 64, "extra_body": {"logits_eos_inf": True}}


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_seed_gives_the_same_answer_on_either(replicas, problems):
    def one(n):
        ask = replicas.client.completions.create
        return ask(model="demo", prompt=problems[0].prompt, seed=n, **RANDOM).choices[0].text

    before = {name: counts["submitted"] for name, counts in replicas.each().items()}
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(one, [n % 4 for n in range(40)]))
    assert texts == texts[:4] * 10 and len(set(texts)) > 1
    after = {name: counts["submitted"] for name, counts in replicas.each().items()}
    assert all(after[name] > before[name] for name in before)  # both had some


def test_a_closed_stream_frees_its_place(replicas, problems):
    for n in range(20):
        options = {"stream_options": {"drafts": n % 2 == 0}, **LONG}
        stream = replicas.client.completions.create(
            model="demo", prompt=problems[0].prompt, stream=True, **options
        )
        next(iter(stream))
        stream.close()
    wait_for(lambda: replicas.stats()["running"] == 0)
    found = replicas.stats()
    assert found["kv_slots"] == 0 and found["cancelled"] == 20


def test_what_is_too_much_is_a_429(replicas, problems):
    """Each replica decodes 4 and lets 16 wait, 20 wait before them: the others are refused. A burst
    can fill the 20 before Ray has handed them on, so that some of the 60 are refused, too.
    """

    def one(n):
        problem = problems[n % 12]
        try:
            answer = replicas.client.completions.create(model="demo", prompt=problem.prompt, **SLOW)
        except openai.APIStatusError as error:
            return error.status_code, error.response.headers.get("retry-after")
        return 200, answer.choices[0].text == problem.answer

    with ThreadPoolExecutor(96) as pool:
        seen = Counter(pool.map(one, range(96)))
    assert set(seen) == {(200, True), (429, "1")}, seen
    assert 40 <= seen[200, True] < 96


def test_every_replica_is_counted(replicas, cluster):
    """Ray's own series, scraped from the node, add up to what the engines say."""
    port = cluster.nodes()[0]["MetricsExportPort"]

    def series(name):
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        lines = [line for line in text.splitlines() if line.startswith(f"ray_dpad_{name}{{")]
        return [float(line.rpartition(" ")[2]) for line in lines]

    wanted = sorted(counts["submitted"] for counts in replicas.each().values())
    wait_for(lambda: sorted(series("submitted_total")) == wanted)
    assert len(series("running")) == 2 and sum(series("tokens_total")) > 0
    # Snapshots: one made within a step has counted it and not seen its seconds yet, and Ray exports
    # every series by itself.
    wait_for(lambda: sum(series("step_seconds_count")) == sum(series("steps_total")) > 0)
    wait_for(lambda: len(series("step_seconds_bucket")) == 2 * 17)


def test_a_killed_replica_takes_only_its_own(replicas, problems):
    victim, *_ = replicas.each().values()

    def one(n):
        problem = problems[n % 12]
        try:
            answer = replicas.client.completions.create(model="demo", prompt=problem.prompt, **SLOW)
        except openai.APIError:
            return "failed"
        return "right" if answer.choices[0].text == problem.answer else "wrong"

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(one, n) for n in range(16)]
        wait_for(lambda: replicas.stats()["running"] >= 6)
        os.kill(victim["pid"], signal.SIGKILL)
        seen = Counter(future.result() for future in asked)
    assert seen["wrong"] == 0 and 0 < seen["failed"] <= 8 and seen["right"] >= 8, seen
    # Another one takes its place.
    wait_for(lambda: victim["pid"] not in {c["pid"] for c in replicas.each().values()}, 120)
    assert one(0) == one(1) == "right"


def test_replicas_follow_the_load():
    class Context:
        target_num_replicas = 3
        aggregated_metrics = None

    assert by_load(Context)[0] == 3
    Context.aggregated_metrics = {"load": {"a": 2.0, "b": 1.0}}
    assert by_load(Context)[0] == pytest.approx(3 / FULL)
    Context.aggregated_metrics = {"load": {"a": 0.0, "b": 0.0}}
    assert by_load(Context)[0] == 0


def test_a_second_replica_comes_under_load(replicas, problems):
    """Of an application of its own, which begins with one; Ray waits 30 s before it believes."""
    from ray import serve

    from examples.ray.deployment import Options, build

    options = Options(most_replicas=2, num_cpus=0.4, max_sequences=2, queue=32)
    handle = serve.run(build(options), name="scaled", route_prefix="/scaled")
    client = replicas.client.with_options(base_url=f"{replicas.url}/scaled/v1")
    seen = set()

    def loaded():
        counts = handle.stats.remote().result()
        seen.add(counts["replica"])
        return len(seen) == 2

    def ask(n):
        while len(seen) < 2:
            client.completions.create(model="demo", prompt=problems[n].prompt, **SLOW)

    try:
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, n) for n in range(8)]
            wait_for(loaded, 180)
            for future in asked:
                future.result()
    finally:
        seen |= {1, 2}
        serve.delete("scaled")
