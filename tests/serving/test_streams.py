"""Streams: finished blocks, drafts beside them, stop strings, and clients that leave."""

import http.client
import json
import socket

import httpx2 as httpx
import pytest

from tests.serving.conftest import wait_for
from tests.serving.test_answers import RANDOM, turns

# One token per step, so that there is time to leave.
SLOW = {"max_tokens": 256, "extra_body": {"steps": 256, "early_stop": False}}


def test_blocks_make_the_answer(client, problems):
    for problem in problems[:3]:
        options = {"model": "demo", "prompt": problem.prompt, "max_tokens": 96}
        options |= {"extra_body": {"block_length": 8}}
        chunks = list(client.completions.create(stream=True, **options))
        assert "".join(c.choices[0].text for c in chunks) == problem.answer
        assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].choices[0].finish_reason == "stop" and len(chunks) > 2
        assert len({c.id for c in chunks}) == 1 and all(c.usage is None for c in chunks)


def test_chat_chunks_and_usage(client, problems):
    *chunks, last = client.chat.completions.create(
        model="demo",
        messages=turns(problems[0]),
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"block_length": 8},
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == problems[0].answer
    assert last.choices == [] and last.usage.completion_tokens == len(text)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(c.object == "chat.completion.chunk" for c in chunks)


def test_several_answers_are_told_apart(byte_server):
    ask = byte_server.client.completions.create
    whole = ask(model="demo", prompt=["hello", "you"], n=2, seed=3, **RANDOM)
    texts, ends = [""] * 4, {}
    for chunk in ask(model="demo", prompt=["hello", "you"], n=2, seed=3, stream=True, **RANDOM):
        choice = chunk.choices[0]
        texts[choice.index] += choice.text
        if choice.finish_reason:
            ends[choice.index] = choice.finish_reason
    assert texts == [c.text for c in whole.choices]
    assert ends == {c.index: c.finish_reason for c in whole.choices}


def test_drafts_are_a_field_of_their_own(byte_server):
    ask = byte_server.client.completions.create
    options = {"model": "demo", "prompt": "hello", "seed": 3, **RANDOM}
    options["extra_body"] = {"block_length": 8, "steps": 12, "logits_eos_inf": True}
    whole = ask(**options)
    drafts, text = 0, ""
    opened = None
    for chunk in ask(stream=True, stream_options={"drafts": True}, **options):
        choice = chunk.choices[0]
        draft = getattr(choice, "dpad", {}).get("draft")
        if draft is None:
            text += choice.text
            opened = None
            continue
        drafts += 1
        assert choice.text == "" and len(draft["confidence"]) == 8
        assert opened is None or draft["open"] < opened
        opened, shown = draft["open"], draft["text"]
        if opened == 0:
            assert whole.choices[0].text.startswith(text + shown)
    assert text == whole.choices[0].text and drafts == 12


def test_stop_strings_do_not_leak(byte_server):
    """Across block borders too, neither in text nor in drafts, neither whole nor in parts."""
    ask = byte_server.client.completions.create
    options = {"model": "demo", "prompt": "hello", "seed": 1, "max_tokens": 24}
    options["extra_body"] = {"block_length": 8, "logits_eos_inf": True}
    text = ask(**options).choices[0].text
    for at in (0, 3, 6, 7, 8, 14, 15, 21):
        stop = text[at : at + 3]
        seen = ""
        stream = ask(stream=True, stop=[stop, "never"], stream_options={"drafts": True}, **options)
        for chunk in stream:
            choice = chunk.choices[0]
            seen += choice.text
            draft = getattr(choice, "dpad", {}).get("draft")
            assert draft is None or stop not in seen + draft["text"]
        assert seen == text[: text.find(stop)] and choice.finish_reason == "stop"


def test_no_broken_characters(byte_server):
    ask = byte_server.client.completions.create
    for seed in range(8):
        whole = ask(model="demo", prompt="hello", seed=seed, **RANDOM).choices[0].text
        chunks = ask(model="demo", prompt="hello", seed=seed, stream=True, **RANDOM)
        assert "".join(c.choices[0].text for c in chunks) == whole


def test_a_closed_stream_frees_its_place(byte_server):
    engine = byte_server.engine
    free = engine.stats()
    for n in range(100):
        stream = byte_server.client.completions.create(
            model="demo", prompt="a", stream=True, stream_options={"drafts": n % 2 == 0}, **SLOW
        )
        next(iter(stream))
        stream.close()
    wait_for(lambda: engine.stats()["running"] == 0)
    found = engine.stats()
    assert found["kv_slots"] == free["kv_slots"] == 0 and found["waiting"] == 0
    assert found["cancelled"] - free.get("cancelled", 0) == 100
    text = byte_server.client.completions.create(model="demo", prompt="a", seed=0, **RANDOM)
    assert text.choices[0].finish_reason


def test_a_client_that_leaves_without_a_stream(byte_server):
    engine, before = byte_server.engine, byte_server.engine.stats().get("cancelled", 0)
    for _ in range(5):
        connection = http.client.HTTPConnection("127.0.0.1", byte_server.port)
        body = {"model": "demo", "prompt": "a", "max_tokens": 512, "steps": 512}
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        wait_for(lambda: engine.stats()["running"] > 0)
        connection.close()
        wait_for(lambda: engine.stats()["running"] == 0)
    assert engine.stats()["cancelled"] - before == 5
    responses = httpx.get(byte_server.url + "/metrics").text
    assert 'dpad_http_responses_total{code="499"}' in responses


def test_a_client_that_never_reads_holds_nobody_up(byte_server):
    """Its request ends; others go on meanwhile."""
    engine = byte_server.engine
    with socket.create_connection(("127.0.0.1", byte_server.port)) as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps(
            {
                **{"model": "demo", "prompt": "a", "max_tokens": 512, "steps": 512},
                **{"stream": True, "stream_options": {"drafts": True}, "block_length": 512},
            }
        )
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
        idle.sendall(head.encode())
        wait_for(lambda: engine.stats()["running"] == 1)
        answer = byte_server.client.completions.create(model="demo", prompt="a", seed=0, **RANDOM)
        assert answer.choices[0].finish_reason
        wait_for(lambda: engine.stats()["running"] == 0, 60)
        assert engine.stats()["kv_slots"] == 0


@pytest.mark.parametrize("path", ["/v1/completions"])
def test_the_stream_ends_with_done(server, problems, path):
    body = {"model": "demo", "prompt": problems[0].prompt, "stream": True}
    with httpx.stream("POST", server.url + path, json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
