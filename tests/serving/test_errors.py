"""What is refused, in OpenAI's form and as the classes of its client; hostile bodies are 4xx."""

import json
import os
import random
import re

import httpx2 as httpx
import openai
import pytest
from typer.testing import CliRunner

import dpad
from dpad.cli.app import app
from dpad.serving import Limits, create_app
from dpad.serving.schema import CompletionRequest
from tests.serving.conftest import served, wait_for
from tests.serving.test_answers import RANDOM

PROMPT = {"model": "demo", "prompt": "by 3 forward from"}
TURN = {"role": "user", "content": "by 3 forward from"}
LONG = {"max_tokens": 512, "extra_body": {"steps": 512, "early_stop": False}}


def post(server, body, path="/v1/completions", **more):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **more.pop("headers", {})}
    return httpx.post(server.url + path, content=content, headers=headers, timeout=60, **more)


def error_of(response):
    """The error of a response, whose form is checked."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize(
    "field, value",
    [
        ("logprobs", 5),
        ("echo", True),
        ("best_of", 2),
        ("presence_penalty", 0.5),
        ("tools", []),
        ("max_new_tokens", 3),
        ("row_keys", [1]),
        ("micro_batch", 1),
        ("temperature", -1),
        ("temperature", "0.5"),
        ("temperature", 1e400),
        ("top_p", 0),
        ("top_p", 1.5),
        ("n", 0),
        ("n", 17),
        ("n", 10**30),
        ("n", True),
        ("seed", 2**64),
        ("seed", 1.5),
        ("max_tokens", 0),
        ("max_tokens", 10**9),
        ("max_tokens", 10**30),
        ("stop", ""),
        ("stop", ["x"] * 17),
        ("stop", "x" * 257),
        ("stop", 5),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"99999": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"1": 1000}),
        ("stream_options", {"include_usage": True}),
        ("block_length", 0),
        ("steps", 10**9),
        ("alg", "best"),
        ("cache", "all"),
        ("suffix", {"kind": "nothing"}),
        ("suffix", {"window": 10**20}),
        ("suffix", {"colour": 1}),
        ("preset", "nobody/nothing"),
        ("threshold", -1),
        ("compatible", "nobody"),
        ("prompt", ""),
        ("prompt", []),
        ("prompt", [[]]),
        ("prompt", [1, "a"]),
        ("prompt", [-1]),
        ("prompt", [10**9]),
        ("prompt", ["a"] * 17),
        ("prompt", "\ud800"),
        ("prompt", None),
        ("prompt", "<|mdm_mask|>"),
        ("prompt", {"a": 1}),
        ("prompt", "a" * 5000),
        ("stream", "yes"),
        ("model", 5),
    ],
)
def test_a_bad_field_is_a_400(server, field, value):
    before = server.engine.stats()["submitted"]
    empty = field == "prompt" and value in ("", [[]])
    response = post(server, {**PROMPT, field: value})
    if empty:  # this model can begin with nothing; others refuse it
        assert response.status_code == 200
        return
    assert response.status_code == 400, response.text
    error = error_of(response)
    assert error["type"] == "invalid_request_error"
    told = error["message"] + str(error["param"])
    others = {"max_tokens": "max_", "prompt": ""}
    assert others.get(field, field) in told.lower()
    assert server.engine.stats()["submitted"] == before


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        [{"role": "tool", "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{**TURN, "tool_calls": []}],
        [{"role": "user", "content": "\udc00"}],
        [5],
    ],
)
def test_bad_conversations_are_a_400(server, messages):
    response = post(server, {"model": "demo", "messages": messages}, "/v1/chat/completions")
    assert response.status_code == 400 and error_of(response)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": "demo", "prompt": ' + b"[" * 100_000,
        b'{"model": "demo", "prompt": "a", "n": ' + b"9" * 10_000 + b"}",
        b'{"model": "demo", "prompt": "a", "temperature": NaN}',
        b'{"model": "demo", "prompt": "a", "temperature": -Infinity}',
        b'{"model": "demo", "prompt": "a", "' + b"x" * 10_000 + b'": 1}',
    ],
)
def test_hostile_bodies_are_a_400(server, body):
    response = post(server, body)
    assert response.status_code == 400 and error_of(response), response.text


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_other_content_types_are_refused(server, kind):
    """A form of another site's page cannot ask."""
    response = post(server, PROMPT, headers={"Content-Type": kind})
    assert response.status_code == 400
    assert error_of(response)["message"] == f"Content-Type = {kind!r}: expected application/json"


@pytest.mark.parametrize(
    "more, param, message",
    [
        ({"prompt": [-1]}, "prompt", "greater than or equal to 0"),
        ({"prompt": {"a": 1}}, "prompt", "valid string; or prompt: .*valid list"),
        ({"prompt": []}, "prompt", "at least one"),
        ({"prompt": [10**6]}, "prompt", "holds id 1000000"),
        ({"prompt": "\ud800"}, "prompt", "tokenizer refuses"),
        ({"prompt": "a" * 5000}, "prompt", "the model has"),
        ({"suffix": "\ud800", "max_tokens": 5}, "suffix", "tokenizer refuses"),
        ({"suffix": "e", "max_tokens": 5, "stop": "a"}, "stop", "^stop goes"),
        ({"stop": [1]}, "stop", "valid string"),
        ({"edit": True}, "edit", "valid number; or edit: .*valid dict"),
        ({"commit": {"kind": "prophet", "late": -1}}, "commit", "late = -1"),
        ({"refine": {"ratio": 2}}, "refine", "ratio = 2"),
        ({"length": {"window": 0}}, "length", "window = 0"),
        ({"length": "daedal", "max_tokens": 16}, "length", "initial_length"),
        ({"preset": "no/such"}, "preset", "^no preset 'no/such'"),
        ({"stream_options": {}}, "stream_options", "^stream_options goes"),
        ({"stream": True, "stream_options": {"a": 1}}, "stream_options.a", "unknown"),
        ({"logit_bias": {"3": 1, "03": -1}}, "logit_bias", "'03' is no token id"),
        ({"suffix": {"window": -1}}, "suffix.window", "greater than or equal to 0"),
        ({"suffix": {"scale": 1.0, "count": 3.0}}, "suffix", "^Suffix takes one of scale"),
        ({"prompt": ["a"] * 17}, "prompt", "at most 16 answers"),
        ({"prompt": ["a"] * 2, "n": 9}, "n", "at most 16 answers"),
        ({"threshold": 0.9, "factor": 1.0}, "threshold", "^confidence_threshold = 0.9, factor"),
        ({"threshold": 0.9, "confidence_threshold": 0.8}, "threshold", "name the same option"),
        ({"remask": {"kind": "cap", "t_on": 0.5}}, "remask", "^Remask.t_on"),
        ({"temperature": 1.0, "remask": "cap", "compatible": "llada"}, "remask", "of its own"),
        ({"refine": 0.25, "commit": "klass"}, "refine", "do not go together"),
        ({"steps": 1, "max_tokens": 16, "block_length": 4}, "steps", "every block needs a step"),
        ({"sub_block_length": 2}, "sub_block_length", "decoded whole"),
        ({"look_back": 2}, "look_back", "goes with refresh"),
        ({"compatible": "sdar"}, "compatible", "is for block-causal attention"),
        ({"alg": "origin"}, "alg", "needs steps="),
    ],
)
def test_the_field_of_a_400_is_one_of_the_body(server, more, param, message):
    error = error_of(post(server, {**PROMPT, **more}))
    assert re.search(message, error["message"]), error
    assert param == error["param"].removesuffix(".0"), error


def test_the_field_of_a_refused_conversation(server):
    for turns, param in (
        ([{"role": "assistant", "content": "4"}], "messages"),
        ([{"role": "user", "content": "<|mdm_mask|>"}], "messages"),
        ([{"role": "user", "content": 5}], "messages.0.content"),
        ([{"role": "user"}], "messages.0.content"),
    ):
        response = post(server, {"model": "demo", "messages": turns}, "/v1/chat/completions")
        assert response.status_code == 400 and error_of(response)["param"] == param
    lengths = {"messages": [TURN], "max_tokens": 4, "max_completion_tokens": 5}
    error = error_of(post(server, {"model": "demo", **lengths}, "/v1/chat/completions"))
    assert error["param"] == "max_tokens" and error["message"].startswith("max_tokens and")
    for name in ("max_tokens", "max_completion_tokens"):
        body = {"model": "demo", "messages": [TURN], name: 1000, "compatible": "rnd1"}
        for length, told in ((10**6, "the longest request"), (1, "keeps the last place")):
            response = post(server, {**body, name: length}, "/v1/chat/completions")
            error = error_of(response)
            assert error["param"] == name and told in error["message"]


def test_the_field_is_the_one_that_the_client_can_change(demo):
    """Of an option that the server has by itself and one of the body, the body's."""
    given = {"refresh": "recent", "look_back": 2, "cache": "dual"}
    with served(*demo, generation_config=dpad.DPadGenerationConfig(**given)) as server:
        for more, param, message in (
            ({"cache": "none"}, "cache", "^refresh = 'recent' and cache = 'none'"),
            ({"refresh": "full"}, "refresh", "^look_back = 2 goes with refresh"),
            ({"factor": 2.0, "alg": "entropy"}, "alg", "^alg = 'entropy' and factor"),
        ):
            error = error_of(post(server, {**PROMPT, **more}))
            assert re.search(message, error["message"]) and error["param"] == param, error


def test_a_refusal_that_names_no_field_has_none(byte_demo):
    with served(*byte_demo) as server:
        server.engine.adapter.mask_id = None
        error = error_of(post(server, PROMPT))
        assert error["message"].startswith("the model does not name its mask token")
        assert error["param"] is None
    body = CompletionRequest(**PROMPT, threshold=0.5)
    assert body.field_of() is None and body.field_of("mask_token_id") is None
    assert body.field_of("mask_token_id", "confidence_threshold", "input_ids") == "threshold"
    assert body.field_of("steps") == "steps"  # not given, and may be


def test_the_field_of_random_refusals(server):
    """One field beside a prompt, or two: what is refused is about one of them."""
    rng = random.Random(int(os.environ.get("DPAD_SEED", "7")))
    schema = server.app.openapi()["components"]["schemas"]["CompletionRequest"]["properties"]
    fields = sorted(set(schema) - {"model", "prompt", "stream", "infill"})
    values = [0, 1, -1, 3, 10**6, 2**40, 0.5, 1e300, "", "a", "dual", "none", "recent", "full"]
    values += ["entropy", "ancestral", "random", "cap", "klass", "prophet", "daedal", "dream"]
    values += [True, False, [], {}, [1], {"kind": "uniform"}, {"kind": "cap", "t_on": 1}]
    values += [{"ratio": 3}, {"window": 4, "scale": 1, "count": 1}, {"late": 2}, {"1": 500}]
    refused = 0
    for number in range(int(os.environ.get("DPAD_CASES", "400"))):
        given = {name: rng.choice(values) for name in rng.sample(fields, 1 + number % 2)}
        response = post(server, {**PROMPT, **given})
        assert response.status_code in (200, 400), response.text
        if response.status_code == 400:
            error = error_of(response)
            assert str(error["param"]).split(".")[0] in given, (given, error)
            refused += 1
    assert refused > 100


def test_random_bodies_are_never_a_500(server):
    rng = random.Random(5)
    fields = list(server.app.openapi()["components"]["schemas"]["CompletionRequest"]["properties"])
    values = [0, 1, -1, 2, 7, 1e-300, 1e300, 0.5, 2**31 - 1, 2**63 - 1, "", "a", "dual", "entropy"]
    values += ["random", True, False, [], {}, None, [1, 2], {"kind": "uniform", "count": 2}]
    values += [
        {"kind": "window", "window": 2**20},
        {"kind": "window", "window": 2**31},
        {"1": 5},
        "confidence_threshold",
        "origin",
    ]
    codes = set()
    for _ in range(int(os.environ.get("DPAD_CASES", "250"))):
        body = {"max_tokens": 16, **PROMPT}
        for name in rng.sample(fields, rng.randint(1, 4)):
            if name not in ("model", "stream"):
                body[name] = rng.choice(values)
        response = post(server, body)
        codes.add(response.status_code)
        assert response.status_code in (200, 400, 404), (body, response.text)
    assert codes == {200, 400}


def test_classes_of_the_client(server):
    ask = server.client.completions.create
    with pytest.raises(openai.BadRequestError, match="frequency_penalty"):
        ask(**PROMPT, frequency_penalty=1.0)
    with pytest.raises(openai.NotFoundError, match="'gpt-4'"):
        ask(model="gpt-4", prompt="a")
    with pytest.raises(openai.NotFoundError):
        server.client.models.retrieve("gpt-4")
    with pytest.raises(openai.BadRequestError) as caught:
        ask(**PROMPT, max_tokens=100_000)
    assert caught.value.code == "context_length_exceeded"
    assert httpx.get(server.url + "/v1/nothing").status_code == 404
    assert error_of(httpx.get(server.url + "/v1/completions"))


def test_keys(demo):
    with served(*demo, api_keys=["first", "sécond"]) as server:
        for key in ("first", "sécond"):
            headers = {"Authorization": f"Bearer {key}".encode()}
            assert httpx.get(server.url + "/v1/models", headers=headers).status_code == 200
        for key in ("x", "firs", "firstx", "second", "FIRST"):
            headers = {"Authorization": f"Bearer {key}"}
            response = httpx.get(server.url + "/v1/models", headers=headers)
            assert response.status_code == 401
            assert error_of(response)["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            server.client.models.list()
        assert server.client.with_options(api_key="first").models.list()
        assert httpx.get(server.url + "/health").status_code == 200
        assert httpx.get(server.url + "/ready").status_code == 200
        assert httpx.get(server.url + "/metrics").status_code == 401


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "\ud800", 5])
def test_a_key_that_cannot_be_sent_is_refused(byte_demo, key):
    """An empty one would let everybody in; none of them is shown."""
    with dpad.Engine(byte_demo[0], max_tokens=64) as engine:
        with pytest.raises(ValueError, match="^api_keys: key 1 of 2: expected at least one char"):
            create_app(engine, byte_demo[1], name="demo", api_keys=["good", key])
        with pytest.raises(TypeError, match="a list of keys"):
            create_app(engine, byte_demo[1], name="demo", api_keys="secret")


@pytest.mark.parametrize("key", ["", "a b"])
def test_an_empty_key_does_not_open_the_server(key):
    result = CliRunner().invoke(app, ["serve", "demo", "--host", "0.0.0.0", "--api-key", key])
    assert result.exit_code == 2 and "--api-key: key 0 of 1: expected" in result.stderr


def test_a_port_that_is_taken(server):
    result = CliRunner().invoke(app, ["serve", "demo", "--port", str(server.port), "--json"])
    error = json.loads(result.stdout)
    assert result.exit_code == error["exit_code"] == 2
    assert error["error"]["message"].startswith(f"--host 127.0.0.1, --port {server.port}: cannot")


def test_other_hosts(demo):
    """A page whose name was made to point to this machine cannot ask."""
    with served(*demo, hosts=["127.0.0.1", "localhost"]) as server:
        assert httpx.get(server.url + "/v1/models").status_code == 200
        for host in ("evil.example", "127.0.0.1.evil", "", ":80", "localhost:x", "[::1]", "\xff"):
            headers = {"Host": host.encode("latin-1")}
            response = httpx.get(server.url + "/v1/models", headers=headers)
            assert response.status_code == 400
            assert error_of(response)["message"].startswith(f"Host = {host!r}: expected 127.0.0.1")
        for host in ("localhost", "LOCALHOST:1", f"127.0.0.1:{server.port}"):
            assert httpx.get(server.url + "/v1/models", headers={"Host": host}).status_code == 200
    with served(*demo, hosts=["*.example"]) as server:
        for host, status in (("a.example", 200), ("example", 400), ("aexample:80", 400)):
            response = httpx.get(server.url + "/v1/models", headers={"Host": host})
            assert response.status_code == status


def test_a_wrong_method_says_which_is_right(server):
    for path, method in (("/v1/completions", "POST"), ("/v1/models", "GET"), ("/health", "GET")):
        response = httpx.request("DELETE", server.url + path)
        assert response.status_code == 405 and response.headers["allow"] == method
        assert error_of(response)["type"] == "invalid_request_error"


def test_a_large_body_is_a_413(demo):
    with served(*demo, limits=Limits(body=10_000)) as server:
        assert post(server, {**PROMPT, "stop": "x" * 9_000}).status_code == 400
        response = post(server, {**PROMPT, "stop": "x" * 11_000})
        assert response.status_code == 413 and error_of(response)["code"] == "body_too_large"

        def parts():  # without a length in the header
            for _ in range(100):
                yield b"x" * 1000

        url = server.url + "/v1/completions"
        headers = {"Content-Type": "application/json"}
        assert httpx.post(url, content=parts(), headers=headers).status_code == 413
        with pytest.raises(openai.APIStatusError) as caught:
            server.client.completions.create(model="demo", prompt="x" * 20_000)
        assert caught.value.status_code == 413


def test_a_full_queue_is_a_429(byte_demo):
    with served(*byte_demo, queue=2, max_sequences=1) as server:
        ask = server.client.completions.create
        streams = [ask(model="demo", prompt="a", stream=True, **LONG)]
        wait_for(lambda: server.engine.stats()["running"] == 1)
        streams += [ask(model="demo", prompt="a", stream=True, **LONG) for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as caught:
            ask(model="demo", prompt="a")
        assert caught.value.response.headers["retry-after"] == "1"
        # All or nothing: of three answers none is begun.
        with pytest.raises(openai.RateLimitError):
            ask(model="demo", prompt="a", n=3)
        for stream in streams:
            stream.close()
        wait_for(lambda: server.engine.stats()["running"] == server.engine.stats()["waiting"] == 0)
        assert ask(model="demo", prompt="a", seed=1, **RANDOM).choices


def test_a_deadline_is_a_503(byte_demo):
    with served(*byte_demo, limits=Limits(seconds=0.05)) as server:
        ask = server.client.completions.create
        with pytest.raises(openai.InternalServerError) as caught:
            ask(model="demo", prompt="a", **LONG)
        assert caught.value.status_code == 503 and caught.value.code == "timeout"
        with pytest.raises(openai.APIError, match="deadline"):
            list(ask(model="demo", prompt="a", stream=True, **LONG))
        assert server.engine.stats()["kv_slots"] == 0
