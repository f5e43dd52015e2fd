"""Texts with gaps over HTTP: a suffix text, and masks in the prompt."""

import pytest

import dpad
from tests.serving.conftest import MASK_ID
from tests.serving.test_errors import error_of, post

GAP = {
    "model": "demo",
    "prompt": "hello",
    "suffix": " world, so it was",
    "max_tokens": 14,
    "seed": 3,
}
VARIANTS = {
    "plain": {},
    "drawn": {"temperature": 1.0, "alg": "first_hitting", "cache": "prefix"},
    "guided": {"cfg_scale": 0.5, "cache": "dual"},
    "rule": {"commit": "klass"},
}


def filled(demo, ids, row_key=0, **options):
    """Ids of a text whose masks `dpad.generate` has filled."""
    given = {"infill": True, "seed": 3, "row_keys": [row_key], "block_length": 4, **options}
    return dpad.generate(demo[0], [ids], **given)[0].tolist()


def text_of(demo, ids):
    return demo[1].decode(ids, skip_special_tokens=True)


def encoded(demo, text):
    return demo[1](text)["input_ids"]


def gap(demo, masks=14):
    """(ids, how many stand before the gap, and behind it) of `GAP`."""
    before, behind = (encoded(demo, GAP[name]) for name in ("prompt", "suffix"))
    return [*before, *[MASK_ID] * masks, *behind], len(before), len(behind)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_suffix_text_stands_behind_the_answer(byte_server, byte_demo, name):
    options, (ids, before, behind) = VARIANTS[name], gap(byte_demo)
    fields = {"block_length": 4, **options}
    answer = byte_server.client.completions.create(**GAP, n=2, extra_body=fields)
    for choice in answer.choices:
        wanted = filled(byte_demo, ids, choice.index, **options)[before:-behind]
        assert choice.text == text_of(byte_demo, wanted) and choice.finish_reason == "stop"
    assert answer.usage.prompt_tokens == before + behind
    assert answer.usage.completion_tokens == 28


@pytest.mark.parametrize("name", VARIANTS)
def test_streams_end_before_the_suffix(byte_server, byte_demo, name):
    fields = {"block_length": 4, "logit_bias": {"257": -100}, **VARIANTS[name]}
    ask = byte_server.client.completions.create
    whole = ask(**GAP, extra_body=fields).choices[0].text
    drafts = {"stream_options": {"drafts": True}}
    chunks = list(ask(**GAP, stream=True, extra_body={**fields, **drafts}))
    texts = [c.choices[0].text for c in chunks]
    assert "".join(texts) == whole and sum(map(bool, texts)) > 1
    assert any(c.choices[0].model_extra.get("dpad") for c in chunks)


def test_a_gap_that_grows(byte_server, byte_demo):
    growth = {"initial_length": 6, "expansion": 4, "low_confidence": 0.9}
    fields = {"block_length": 4, "length": growth}
    answer = byte_server.client.completions.create(**GAP, extra_body=fields)
    ids, before, behind = gap(byte_demo, masks=6)
    wanted = filled(byte_demo, ids, length=growth, max_new_tokens=14)
    assert answer.choices[0].text == text_of(byte_demo, wanted[before:-behind])
    assert answer.usage.completion_tokens == len(wanted) - before - behind > 6


def test_masks_in_the_prompt(byte_server, byte_demo):
    """What is answered begins with the first gap: prompt up to there and answer are the text."""
    prompt = "ab<mask><mask>cd<mask>e"
    ids = encoded(byte_demo, prompt)
    assert ids.count(MASK_ID) == 3
    body = {"model": "demo", "prompt": prompt, "seed": 3}
    fields = {"infill": True, "block_length": 4}
    answer = byte_server.client.completions.create(**body, extra_body=fields)
    wanted = filled(byte_demo, ids)
    assert answer.choices[0].text == text_of(byte_demo, wanted[2:])
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 3)
    tokens = {**body, "prompt": ids}
    again = byte_server.client.completions.create(**tokens, extra_body=fields)
    assert again.choices[0].text == answer.choices[0].text
    with_suffix = {**body, "suffix": "f", "max_tokens": 2}
    answer = byte_server.client.completions.create(**with_suffix, extra_body=fields)
    ids = [*ids, MASK_ID, MASK_ID, *encoded(byte_demo, "f")]
    assert answer.choices[0].text == text_of(byte_demo, filled(byte_demo, ids)[2:-1])


def test_a_model_that_counts_finds_what_is_missing(server, problems):
    for problem in problems[:3]:
        whole = problem.prompt + problem.answer
        at = len(problem.prompt) + 6
        body = {"model": "demo", "prompt": whole[:at], "suffix": whole[at + 4 :], "max_tokens": 4}
        answer = server.client.completions.create(**body)
        assert answer.choices[0].text == whole[at : at + 4]


def test_an_empty_suffix_is_none(byte_server):
    ask = byte_server.client.completions.create
    body = {"model": "demo", "prompt": "hello", "max_tokens": 8, "seed": 3}
    assert ask(**body, suffix="").choices[0].text == ask(**body).choices[0].text


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"max_tokens": None}, "suffix needs max_tokens"),
        ({"stop": "x"}, "stop goes with an answer behind a prompt"),
        ({"suffix": "a<mask>b"}, "suffix: a text with mask tokens"),
        ({"suffix": ["a"]}, "suffix"),
        ({"suffix": {"window": -1}}, "suffix.window"),
        ({"suffix": None, "infill": True}, "max_tokens and infill"),
        ({"suffix": None, "infill": True, "max_tokens": None}, "prompt: number 0 holds no mask"),
        ({"suffix": None, "infill": "yes"}, "infill"),
        ({"refine": 0.25}, "infill = True and refine"),
        ({"remask": "cap", "temperature": 1.0}, "infill = True and remask"),
        ({"suffix": "a" * 9000}, "positions, the model has 1024"),
        ({"compatible": "llada"}, "that program fills no gaps"),
    ],
)
def test_what_is_refused(byte_server, changes, told):
    before = byte_server.engine.stats()["submitted"]
    response = post(byte_server, {**GAP, **changes})
    assert response.status_code == 400, response.text
    error = error_of(response)
    assert told in error["message"] + str(error["param"])
    assert byte_server.engine.stats()["submitted"] == before


def test_a_chat_has_no_gaps(byte_server):
    turns = [{"role": "user", "content": "hello"}]
    for field, value in (("infill", True), ("suffix", "x")):
        body = {"model": "demo", "messages": turns, field: value}
        response = post(byte_server, body, "/v1/chat/completions")
        assert response.status_code == 400 and error_of(response)["param"] == field
