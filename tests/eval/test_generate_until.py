"""`generate_until`: what a request asks for is what it gets, in any batch."""

import random

import pytest
import torch

import dpad
from dpad.generation.row_key import key_of

pytest.importorskip("lm_eval", reason="lm-eval is not installed (requirements/eval.txt)")

from lm_eval.api.model import CachingLM

from dpad.eval import DPadLM
from dpad.eval.batches import StopStrings, read_settings

GREEDY = {"do_sample": False, "temperature": 0.0}


def alone(demo, prompt, options, again=0):
    """Text of `dpad.generate` for one prompt, as far as the first end."""
    model, tokenizer = demo
    ids = tokenizer(prompt)["input_ids"]
    key = key_of(again, *ids)
    out = dpad.generate(model, [ids], seed=0, row_keys=[key], **options)
    return dpad.demo.decode(out[0, len(ids) :]).split("<|endoftext|>")[0]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_answers_come_in_the_order_of_requests_whatever_their_settings(
    demo, problems, ask, batch_size
):
    settings = [
        ({"max_gen_toks": 96, **GREEDY}, {"max_new_tokens": 96}),
        ({"max_gen_toks": 20, "until": [], "do_sample": False}, {"max_new_tokens": 20}),
        ({"do_sample": False, "steps": 48}, {"max_new_tokens": 48, "steps": 48}),
        ({"max_new_tokens": 64, "cache": "prefix"}, {"max_new_tokens": 64, "cache": "prefix"}),
        (
            {"max_gen_toks": 32, "do_sample": True, "temperature": 9.0, "top_k": 9},
            {"max_new_tokens": 32, "temperature": 9.0, "top_k": 9},
        ),
    ]
    pairs = [(p, settings[i % 5]) for i, p in enumerate(problems)]
    random.Random(batch_size).shuffle(pairs)
    lm = DPadLM(*demo, batch_size=batch_size, max_new_tokens=48)
    texts = lm.generate_until(ask("generate_until", *((p.prompt, s[0]) for p, s in pairs)))
    expected = [alone(demo, p.prompt, s[1]) for p, s in pairs]
    assert texts == expected
    assert sum(t == p.answer for t, (p, _) in zip(texts, pairs, strict=True)) >= 4
    rows = [call["rows"] for call in lm.record.calls]
    assert sum(rows) == 12 and max(rows) <= batch_size


def test_the_record_counts_ids_before_the_text(demo, problems, ask):
    until = [[], ["a"], ["c"], ["<|endoftext|>", "0"]]
    lm = DPadLM(*demo, batch_size=4)
    requests = ask(
        "generate_until",
        *(
            (p.prompt, {"until": u, "max_gen_toks": 96})
            for p, u in zip(problems, until, strict=False)
        ),
    )
    texts = lm.generate_until(requests)
    entries = sorted(lm.record.requests, key=lambda entry: entry["document"])
    assert [e["generated_tokens"] for e in entries] == [len(t) for t in texts]  # a token a letter
    assert [e["prompt_tokens"] for e in entries] == [25] * 4
    assert {e["canvas_tokens"] for e in entries} == {96}
    found = lm.record.summary()["generate_until"]
    assert found["requests"] == 4 and found["canvas_tokens"] == 4 * 96
    assert found["generated_tokens"] == sum(map(len, texts))
    assert found["forwards"] == sum(e["forwards"] for e in entries) >= 8
    assert found["tokens_per_forward"] == found["generated_tokens"] / found["forwards"]
    seconds = found["seconds"]["total"]
    assert found["tokens_per_second"] == found["generated_tokens"] / seconds
    assert found["seconds_per_request"] == seconds / 4
    assert found["positions"] == sum(call["positions"] for call in lm.record.calls) > 0


def test_stop_strings_are_each_request_s_own_and_end_its_row(demo, problems, ask):
    plain = [p.answer for p in problems[:4]]
    until = [["0", "zz"], [], plain[2][7:9], [problems[3].prompt[-1], ""]]
    requests = ask(
        "generate_until",
        *(
            (p.prompt, {"until": u, "max_gen_toks": 96})
            for p, u in zip(problems, until, strict=False)
        ),
    )
    expected = [alone(demo, p.prompt, {"max_new_tokens": 96}) for p in problems[:4]]
    whole, forwards = list(expected), {}
    expected[0] = expected[0].split("0")[0]
    expected[2] = expected[2].split(plain[2][7:9])[0]
    expected[3] = expected[3].split(problems[3].prompt[-1])[0]
    for early in (True, False):
        lm = DPadLM(*demo, batch_size=4, early_stop=early, block_length=8)
        assert [len(t) for t in lm.generate_until(requests)] == [len(t) for t in expected]
        entries = sorted(lm.record.requests, key=lambda entry: entry["document"])
        forwards[early] = [e["forwards"] for e in entries]
        reasons = [e["finish_reason"] for e in entries]
        assert reasons[0] == ("criteria" if early else "length") and reasons[1] != "criteria"
    assert len(whole[0]) > len(expected[0]) and len(whole[2]) > len(expected[2])
    assert all(a < b for a, b in zip(forwards[True], forwards[False], strict=True))


def test_a_stop_in_the_prompt_does_not_count(demo, ask, problems):
    """The answer's first token and the prompt's last one make the string."""
    problem = problems[0]
    across = problem.prompt[-1] + problem.answer[0]
    lm = DPadLM(*demo)
    request = ask("generate_until", (problem.prompt, {"until": [across], "max_gen_toks": 96}))
    text = lm.generate_until(request)[0]
    assert text == alone(demo, problem.prompt, {"max_new_tokens": 96}).split(across)[0] != ""


def test_stops_are_found_across_tokens_and_among_special_ones(demo):
    _, tokenizer = demo
    encode = dpad.demo.encode
    stops = StopStrings(tokenizer, ("bcd", "<|user|>"))
    for text, kept, count in [
        ("abcde", "a", 1),
        ("ab<|user|>cd", "ab", 2),
        ("abc", "abc", 3),
        ("bcd", "", 0),
        ("ab<|assistant|>x<|user|>", "abx", 4),
        ("", "", 0),
    ]:
        assert stops.cut(encode(text)) == (kept, count)
    asked = stops.criterion(2)
    ids = torch.tensor([encode("bcabcde")])
    assert [asked(ids[:, :n], None) for n in range(2, 8)] == [False] * 4 + [True] * 2


class Pieces:
    """A tokenizer of given pieces: several letters a token, as words have."""

    pieces = ("He", "llo.\n", "\nQ", ": no")

    def decode(self, ids, skip_special_tokens, clean_up_tokenization_spaces):
        return "".join(self.pieces[i] for i in ids)


def test_a_stop_within_tokens_leaves_what_stands_before_it():
    stops = StopStrings(Pieces(), ("\n\n",))
    assert stops.cut([0, 1, 2, 3]) == ("Hello.", 1)  # the second token holds a part of the stop
    asked = stops.criterion(0)
    assert [asked(torch.arange(n)[None], None) for n in range(1, 5)] == [False, False, True, True]


def test_sampling_follows_from_the_request_and_its_repeat(demo, problems, ask):
    hot = {"max_gen_toks": 32, "do_sample": True, "temperature": 9.0}
    prompts = [(problems[i].prompt, hot) for i in (0, 1, 0, 2, 0)]
    texts = {}
    for batch_size in (1, 2, 8):
        lm = DPadLM(*demo, batch_size=batch_size)
        texts[batch_size] = lm.generate_until(ask("generate_until", *prompts))
        assert texts[batch_size] == texts[1]
    assert len(set(texts[1])) == 5
    other = [prompts[i] for i in (3, 0, 2, 1, 4)]
    moved = DPadLM(*demo, batch_size=2).generate_until(ask("generate_until", *other))
    assert moved == [texts[1][i] for i in (3, 0, 2, 1, 4)]
    cold = DPadLM(*demo, batch_size=2, temperature=9.0, max_new_tokens=32)
    as_asked, said_nothing = cold.generate_until(
        ask("generate_until", (prompts[0][0], {"do_sample": False}), (prompts[0][0], {"until": []}))
    )
    assert as_asked == alone(demo, prompts[0][0], {"max_new_tokens": 32})
    assert said_nothing == texts[1][0]
    another = DPadLM(*demo, seed=5).generate_until(ask("generate_until", prompts[0]))
    assert another != texts[1][:1]


def test_equal_greedy_requests_are_one_request(demo, problems, ask):
    """A suffix of which little is kept by chance: other draws would give other answers."""
    thin = {"suffix": "gaussian", "suffix_window": 64, "suffix_density": 0.1, "max_new_tokens": 96}
    twice = [(p.prompt, {"do_sample": False}) for p in problems for _ in range(2)]
    texts = DPadLM(*demo, batch_size=5, **thin).generate_until(ask("generate_until", *twice))
    assert texts[::2] == texts[1::2]


@pytest.mark.parametrize(
    "gen_kwargs, words",
    [
        ({"num_beams": 4}, "num_beams = 4: there is no beam search"),
        ({"do_sample": True}, "do_sample = True and no temperature above 0"),
        ({"repetition_penalty": 1.2}, "unknown option 'repetition_penalty' = 1.2"),
        ({"row_keys": [3]}, r"row_keys = \[3\]: the evaluation sets it itself"),
        ({"until": [3]}, r"until = \[3\]: expected strings"),
        ({"max_gen_toks": -2}, "max_new_tokens = -2"),
        ({"temperature": -1.0}, "temperature = -1.0"),
        ({"max_gen_toks": 1000}, "prompt of 25 [+] max_new_tokens of 1000 = 1025 positions"),
        ({"steps": 2, "max_gen_toks": 96}, "steps = 2 is less than the 3 blocks"),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_anything_runs(
    demo, problems, ask, gen_kwargs, words
):
    lm = DPadLM(*demo, batch_size=2)
    good = (problems[0].prompt, {"max_gen_toks": 32})
    requests = ask("generate_until", good, good, (problems[1].prompt, gen_kwargs))
    with pytest.raises(
        (TypeError, ValueError), match=rf"request 2 \(task, document 2\): .*{words}"
    ):
        lm.generate_until(requests)
    assert lm.record.calls == []


def test_settings_that_mean_nothing_here_are_let_by():
    assert read_settings({"num_beams": 1, "do_sample": False, "top_p": 0.9, "until": None}) == (
        {"temperature": 0.0},
        (),
    )
    assert read_settings({"until": "Q:"}) == ({}, ("Q:",))
    sampled = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7}
    assert read_settings(sampled)[0] == {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 7}


def test_finished_requests_are_in_the_cache_when_a_later_one_fails(
    demo, problems, ask, tmp_path, monkeypatch
):
    lm = DPadLM(*demo, batch_size=2)
    requests = ask("generate_until", *((p.prompt, {"max_gen_toks": 32}) for p in problems[:6]))
    expected = lm.generate_until(requests)
    again = DPadLM(*demo, batch_size=2)
    cached = CachingLM(again, str(tmp_path / "answers.db"))
    decode, calls = again.decode, []

    def fail_third(rows, config):
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(rows, config)

    monkeypatch.setattr(again, "decode", fail_third)
    with pytest.raises(KeyboardInterrupt):
        cached.generate_until(requests)
    assert cached.generate_until(requests) == expected
    assert calls == [2, 2, 2, 2]  # two batches were kept
