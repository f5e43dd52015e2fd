"""Prompts in every form: texts, rows of different lengths, padding that nobody declared."""

import warnings

import numpy
import pytest
import torch

import dpad
from tests.generation.common import EOS_ID, pad

SHORT = {"max_new_tokens": 12, "block_length": 8, "seed": 1}
ASK = ["by 3 forward from", "by 2 forward from"]


@pytest.mark.parametrize("kind", [list, tuple, numpy.array, torch.tensor])
def test_rows_of_different_lengths_are_padded_on_the_left(model, prompts, kind):
    ids, mask = pad(prompts, "left")
    expected = dpad.generate(model, ids, attention_mask=mask, **SHORT)
    rows = [kind(prompt) for prompt in prompts]
    found = dpad.generate(model, rows, pad_token_id=EOS_ID, **SHORT)
    assert torch.equal(found[:, ids.shape[1] :], expected[:, ids.shape[1] :])
    assert torch.equal(found[:, : ids.shape[1]], ids)
    encoding = {"input_ids": rows, "attention_mask": [[1] * len(p) for p in prompts]}
    assert torch.equal(dpad.generate(model, encoding, pad_token_id=EOS_ID, **SHORT), found)


def test_rows_and_masks_of_different_lengths_have_to_fit(llada):
    for mask, words in (
        ([[1, 1], [1, 1]], "rows of [2, 2], input_ids of [2, 1]"),
        ([[1, 0], [1]], "expected ones only"),
    ):
        with pytest.raises(ValueError) as error:
            dpad.generate(llada, [[1, 2], [3]], attention_mask=mask, **SHORT)
        assert words in str(error.value)


def test_equal_rows_as_arrays(llada, prompts):
    expected = dpad.generate(llada, [prompts[0], prompts[0][::-1]], **SHORT)
    for kind in (numpy.array, torch.tensor):
        rows = [kind(prompts[0]), kind(prompts[0][::-1])]
        assert torch.equal(dpad.generate(llada, rows, **SHORT), expected)


def test_arrays_however_they_lie_in_memory(llada, prompts):
    ids = numpy.array(prompts[:1])
    expected = dpad.generate(llada, torch.tensor(ids), **SHORT)
    fixed = ids.copy()
    fixed.setflags(write=False)
    given = [ids[:, ::-1].copy()[:, ::-1], ids.astype(">i8"), fixed, ids.repeat(2, 1)[:, ::2]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for array in given:
            for form in (array, list(array), {"input_ids": array, "attention_mask": array >= 0}):
                assert torch.equal(dpad.generate(llada, form, **SHORT), expected)
    assert (ids == numpy.array(prompts[:1])).all()


def test_an_empty_row_beside_others_is_named(llada):
    for rows in ([[1, 2], []], [numpy.array([1]), numpy.array([], int)]):
        with pytest.raises(ValueError, match="input_ids: row 1 is empty"):
            dpad.generate(llada, rows, **SHORT)
    assert dpad.generate(llada, [[], []], **SHORT).shape == (2, 12)


def test_texts_are_read_by_the_tokenizer():
    model, tokenizer = dpad.demo.load()
    short = {"max_new_tokens": 8, "seed": 1}
    ids = tokenizer(ASK, return_tensors="pt")["input_ids"]
    assert torch.equal(
        dpad.generate(model, ASK, tokenizer=tokenizer, **short), dpad.generate(model, ids, **short)
    )
    one = dpad.generate(model, ASK[0], tokenizer=tokenizer, **short)
    assert torch.equal(one, dpad.generate(model, ids[:1], **short))
    uneven = dpad.generate(model, [ASK[0], ASK[1][:4]], tokenizer=tokenizer, **short)
    assert uneven.shape == (2, ids.shape[1] + 8)
    with dpad.patch(model):
        assert torch.equal(model.generate(ASK[0], tokenizer=tokenizer, **short), one)
        with pytest.raises(ValueError, match="the tokenizer refuses 'Hello'"):
            model.generate("Hello", tokenizer=tokenizer, **short)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("by 3", "input_ids = 'by 3': expected token ids; pass tokenizer="),
        (["by 3", "by 2"], "pass tokenizer="),
        (["by 3", [1, 2]], "texts or token ids, not both"),
        ([{"role": "user", "content": "x"}], "tokenizer.apply_chat_template"),
        ([[1.5, 2.0]], "dtype torch.float32"),
        ([[True, False]], "dtype torch.bool"),
        ([[1, 2**70]], "expected token ids"),
        ([[[1]]], "shape [1, 1, 1]"),
        (object(), "expected token ids"),
        ({"attention_mask": [[1]]}, "inputs holds ['attention_mask']"),
    ],
)
def test_what_is_no_prompt_is_named(llada, given, words):
    with pytest.raises(ValueError) as error:
        dpad.generate(llada, given, **SHORT)
    assert words in str(error.value)


def test_padding_without_a_mask_warns(llada, prompts):
    for side, words in (("left", "begins"), ("right", "ends")):
        ids, mask = pad([prompts[0], prompts[1]], side)
        with pytest.warns(UserWarning, match=f"row 1 {words} with 8 of the padding id {EOS_ID}"):
            dpad.generate(llada, ids, **SHORT)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dpad.generate(llada, ids, attention_mask=mask, **SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # As Dream's texts begin.
        dpad.generate(llada, [[EOS_ID, 1, 2], [EOS_ID, 4, 5]], **SHORT)
        dpad.generate(llada, [[1, EOS_ID, EOS_ID, 2]], **SHORT)


def test_a_warning_points_at_the_call(llada):
    with pytest.warns(UserWarning) as seen:
        dpad.generate(llada, [[EOS_ID, EOS_ID, 2]], **SHORT)
    assert seen[0].filename == __file__
