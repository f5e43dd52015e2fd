"""Text of tokens: whole characters, stop strings never seen, nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpad.serving.text import StopCriterion, TextStream
from tests.serving.conftest import byte_tokenizer

TOKENIZER = byte_tokenizer()
TEXTS = st.text("abé→😀 ", max_size=30)


def ids_of(data):
    """Token ids of bytes, valid UTF-8 or not."""
    alphabet = {b: i for i, b in enumerate(byte_order())}
    return [alphabet[b] for b in data]


def byte_order():
    """The byte of each token id."""
    order = {}
    for byte in range(256):
        try:
            text = bytes([byte]).decode()
            (index,) = TOKENIZER(text, add_special_tokens=False)["input_ids"]
        except (UnicodeDecodeError, ValueError):
            continue
        order[index] = byte
    letters = TOKENIZER.convert_ids_to_tokens(list(range(256)))
    for index, letter in enumerate(letters):  # the byte-level alphabet of GPT-2
        if index not in order:
            code = ord(letter)
            order[index] = code if code < 256 else hidden()[code - 256]
    return [order[i] for i in range(256)]


def hidden():
    """Bytes that GPT-2's alphabet writes as other characters, in order."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [b for b in range(256) if b not in shown]


@given(TEXTS)
def test_characters_are_whole(text):
    stream = TextStream(TOKENIZER)
    pieces = [stream.push([token]) for token in ids_of(text.encode())]
    assert "".join([*pieces, stream.end()]) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@given(st.binary(max_size=40))
def test_broken_bytes_are_what_the_whole_would_be(data):
    stream, ids = TextStream(TOKENIZER), ids_of(data)
    text = "".join([stream.push([token]) for token in ids]) + stream.end()
    assert text == TOKENIZER.decode(ids)


@given(TEXTS, st.lists(st.text("abé→ ", min_size=1, max_size=4), min_size=1, max_size=3))
def test_stop_strings_end_the_text(text, stops):
    ids, stream, criterion = (
        ids_of(text.encode()),
        TextStream(TOKENIZER, stops),
        StopCriterion(TOKENIZER, stops),
    )
    import torch

    seen, asked = "", 0
    for count in range(1, len(ids) + 1):
        seen += stream.push(ids[count - 1 : count])
        asked = count
        assert not any(stop in seen for stop in stops)
        if criterion(torch.tensor([ids[:count]]), None):
            break
    assert stream.stopped == (asked > 0 and criterion._text.stopped)
    seen += stream.end()
    # The first stop string that is complete ends the text.
    whole = text.encode()[:asked].decode(errors="ignore")
    ends = [whole.find(stop) for stop in stops if stop in whole]
    assert seen == (whole[: min(ends)] if ends else text)


def test_a_part_of_a_stop_string_is_held_back():
    stream = TextStream(TOKENIZER, ["END"])
    assert [stream.push(ids_of(c.encode())) for c in "aENx"] == ["a", "", "", "ENx"]
    assert stream.push(ids_of(b"EN")) == "" and stream.end() == "EN"
    stream = TextStream(TOKENIZER, ["END"])
    assert stream.push(ids_of(b"aEND and more")) == "a" and stream.stopped
    assert stream.push(ids_of(b"b")) == "" == stream.end()


def test_a_look_changes_nothing():
    stream = TextStream(TOKENIZER, ["END"])
    stream.push(ids_of(b"aE"))
    assert stream.peek(ids_of(b"x END")) == "Ex "
    assert stream.peek(ids_of(b"ND")) == ""
    assert stream.push(ids_of(b"x")) == "Ex"


@pytest.mark.parametrize("count", [2000])
def test_much_rubbish_takes_no_time(count):
    """What has to be decoded again does not grow with the text."""
    stream, most = TextStream(TOKENIZER), 0
    for token in ids_of(b"\x80" * count):
        stream.push([token])
        most = max(most, len(stream._ids))
    assert most <= 4
