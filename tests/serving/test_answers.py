"""Whole answers by OpenAI's client: they are those of `dpad.generate`."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import dpad
from dpad.demo.task import ASSISTANT

RANDOM = {"temperature": 1.0, "max_tokens": 24, "extra_body": {"block_length": 8}}


def turns(problem):
    """A problem as a conversation whose last message is to be continued."""
    text, state = problem.prompt.split(ASSISTANT)
    question = text.rpartition("<|user|>")[2]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": state}]


def alone(model, tokenizer, ids, **options):
    """(text, tokens) of `dpad.generate`, up to the end id."""
    out = dpad.generate(model, [ids], return_dict_in_generate=True, **options)
    tokens = out.sequences[0, len(ids) :].tolist()
    ends = dpad.generation.checks.token_ids(dpad.models.adapter.find_adapter(model), NO_IDS)[1]
    count = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokenizer.decode(tokens[:count], skip_special_tokens=True), count


NO_IDS = dpad.DPadGenerationConfig()


def test_completions(client, problems):
    for problem in problems[:3]:
        answer = client.completions.create(model="demo", prompt=problem.prompt, max_tokens=96)
        choice = answer.choices[0]
        assert choice.text == problem.answer and choice.finish_reason == "stop"
        assert answer.object == "text_completion" and answer.model == "demo"
        assert answer.usage.prompt_tokens == len(problem.prompt_ids)
        assert answer.usage.completion_tokens == len(problem.answer)
        assert answer.usage.total_tokens == len(problem.prompt_ids) + len(problem.answer)
        assert answer.dpad["canvas"] == 96 and answer.dpad["forwards"][0] > 0


def test_chat_continues_the_assistant(client, problems):
    for problem in problems[:3]:
        answer = client.chat.completions.create(model="demo", messages=turns(problem))
        message = answer.choices[0].message
        assert message.content == problem.answer and message.role == "assistant"
        assert answer.usage.prompt_tokens == len(problem.prompt_ids)
        assert answer.dpad["canvas"] == 256  # the model's default


def test_content_in_parts(client, problems):
    question, start = turns(problems[0])
    words = question["content"].split(" ", 1)
    parts = [{"type": "text", "text": words[0] + " "}, {"type": "text", "text": words[1]}]
    answer = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": parts}, start]
    )
    assert answer.choices[0].message.content == problems[0].answer


@pytest.mark.parametrize(
    "options",
    (
        {"length": "daedal"},
        {"length": {"initial_length": 16, "low_confidence": 0.2}, "cache": "dual"},
        {"refresh": "recent", "refresh_period": 4, "look_back": 2, "cache": "prefix"},
        {"refine": 0.25, "commit": "streaming"},
    ),
    ids=str,
)
def test_options_of_dpad(byte_server, byte_demo, options):
    model, tokenizer = byte_demo
    ids, shared = tokenizer("hello")["input_ids"], {"block_length": 8, **options}
    given = {"model": "demo", "prompt": "hello", "seed": 3, "max_tokens": 64}
    answer = byte_server.client.completions.create(**given, extra_body=shared)
    text, count = alone(model, tokenizer, ids, max_new_tokens=64, seed=3, **shared)
    assert answer.choices[0].text == text and answer.usage.completion_tokens == count


def test_several_prompts_and_token_ids(client, problems):
    prompts = [p.prompt for p in problems[:3]]
    answer = client.completions.create(model="demo", prompt=prompts, n=2, max_tokens=96)
    assert [c.index for c in answer.choices] == [*range(6)]
    assert [c.text for c in answer.choices] == [p.answer for p in problems[:3] for _ in "12"]
    ids = [p.prompt_ids for p in problems[:2]]
    answer = client.completions.create(model="demo", prompt=ids, max_tokens=96)
    assert [c.text for c in answer.choices] == [p.answer for p in problems[:2]]
    answer = client.completions.create(model="demo", prompt=ids[1], max_tokens=96)
    assert answer.choices[0].text == problems[1].answer


def test_n_answers_are_those_of_generate(byte_server, byte_demo):
    model, tokenizer = byte_demo
    ids = tokenizer("hello")["input_ids"]
    answer = byte_server.client.completions.create(
        model="demo", prompt="hello", n=4, seed=11, **RANDOM
    )
    own = {"temperature": 1.0, "max_new_tokens": 24, "block_length": 8, "seed": 11}
    expected = [alone(model, tokenizer, ids, row_keys=[key], **own) for key in range(4)]
    assert [c.text for c in answer.choices] == [text for text, _ in expected]
    assert answer.usage.completion_tokens == sum(count for _, count in expected)
    assert len({c.text for c in answer.choices}) == 4


def test_a_seed_gives_the_same_answer_in_any_company(byte_server):
    ask = byte_server.client.completions.create

    def one(n):
        return ask(model="demo", prompt="a" * (1 + n % 5), seed=n % 6, **RANDOM).choices[0].text

    first = [one(n) for n in range(6)]
    assert len(set(first)) == 6
    with ThreadPoolExecutor(12) as pool:
        again = list(pool.map(one, [n % 6 for n in range(36)]))
    # One that is not n < 6 has another prompt: the length follows from n.
    assert again == [first[n % 6] for n in range(36)]
    unseeded = ask(model="demo", prompt="a", **RANDOM)
    repeated = ask(model="demo", prompt="a", seed=unseeded.dpad["seed"], **RANDOM)
    assert repeated.choices[0].text == unseeded.choices[0].text


@pytest.mark.parametrize("option", [{"top_p": 0.3}, {"logit_bias": {"65": 100}}])
def test_what_changes_the_draw(byte_server, byte_demo, option):
    model, tokenizer = byte_demo
    ids = tokenizer("hello")["input_ids"]
    answer = byte_server.client.completions.create(
        model="demo", prompt="hello", seed=11, **RANDOM, **option
    )
    text = answer.choices[0].text
    own = {"temperature": 1.0, "max_new_tokens": 24, "block_length": 8, "seed": 11}
    plain, _ = alone(model, tokenizer, ids, **own)
    assert text != plain
    if "top_p" in option:
        assert text == alone(model, tokenizer, ids, **own, **option)[0]
    else:
        assert set(text) == {tokenizer.decode([65])}


def test_options_of_dpad_are_honoured(byte_server, byte_demo):
    model, tokenizer = byte_demo
    ids = tokenizer("hello")["input_ids"]
    suffix = {"kind": "uniform", "density": 0.5, "window": 16}
    fields = {"block_length": 4, "steps": 12, "suffix": suffix, "cache": "dual", "cfg_scale": 0.5}
    answer = byte_server.client.completions.create(
        model="demo", prompt="hello", seed=5, max_tokens=24, extra_body=fields
    )
    expected = alone(model, tokenizer, ids, seed=5, max_new_tokens=24, **fields)
    assert (answer.choices[0].text, answer.usage.completion_tokens) == expected
    assert answer.dpad["forwards"] == [12]


def test_length_and_stop(byte_server):
    ask = byte_server.client.completions.create
    body = {"block_length": 8, "logits_eos_inf": True}
    whole = ask(model="demo", prompt="hello", seed=1, max_tokens=24, extra_body=body)
    assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 24
    text = whole.choices[0].text
    for at in (1, 7, 8, 9, 15, 20):  # inside blocks and across their borders
        stop = text[at : at + 2]
        cut = ask(model="demo", prompt="hello", seed=1, max_tokens=24, stop=stop, extra_body=body)
        assert cut.choices[0].text == text[: text.find(stop)]
        assert cut.choices[0].finish_reason == "stop"
        assert cut.usage.completion_tokens <= 24


def test_models(client):
    assert [m.id for m in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"
