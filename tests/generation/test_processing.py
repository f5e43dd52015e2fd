"""Logits processors and stopping criteria, as Transformers takes them."""

import time

import numpy
import pytest
import torch
import transformers
from transformers import LogitsProcessorList, StoppingCriteriaList

import dpad
from dpad.decode.decoder import NaNLogitsError
from tests.generation.common import EOS_ID, MASK_ID, pad

OPTIONS = {"max_new_tokens": 20, "block_length": 8, "threshold": 0.6, "seed": 2}
FULL = {"early_stop": False, "compatible": "fast-dllm-llada"}


def run(model, prompts, **options):
    ids, mask = pad(prompts, "left")
    return dpad.generate(model, ids, attention_mask=mask, **{**OPTIONS, **options})


class Watch(transformers.LogitsProcessor):
    """Records what a processor sees, and changes nothing."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores):
        assert not scores.is_inference()
        self.seen.append((input_ids.clone(), tuple(scores.shape), scores.dtype))
        return scores


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_a_processor_sees_each_open_position_behind_its_own_text(llada, prompts, cache):
    watch = Watch()
    plain = run(llada, prompts, cache=cache, **FULL)
    assert torch.equal(run(llada, prompts, logits_processor=[watch], cache=cache, **FULL), plain)
    assert {shape for _, shape, _ in watch.seen} == {(1, 320)}
    assert {dtype for _, _, dtype in watch.seen} == {torch.float32}
    answers = dict(zip(range(5), plain[:, -20:].tolist(), strict=True))
    lengths = set()
    for ids, _, _ in watch.seen:
        row = next(r for r, p in enumerate(prompts) if ids[0, : len(p)].tolist() == p)
        answer = ids[0, len(prompts[row]) :]
        lengths.add((row, answer.shape[0]))
        for i, token in enumerate(answer.tolist()):
            assert token in (MASK_ID, answers[row][i])
        begin = answer.shape[0] // 8 * 8
        assert MASK_ID not in answer[:begin]
    assert lengths == {(row, i) for row in range(5) for i in range(20)}


def test_half_precision_logits_stay_what_they_are(llada, prompts):
    """Confidences that are rounded to the logits' dtype are so behind a processor too."""
    options = {"compatible": "llada", "steps": 10, "threshold": None, "trace": True}
    plain = run(llada.bfloat16(), prompts, **options)
    watch = Watch()
    seen = run(llada, prompts, logits_processor=[watch], **options)
    assert watch.seen[0][2] == torch.float32
    for name in ("tokens", "positions", "confidence"):
        assert [e[name] for e in seen.trace.events] == [e[name] for e in plain.trace.events]


def test_processors_of_the_vocabulary(llada, prompts):
    plain = run(llada, prompts, **FULL)
    banned = plain[0, -20:].unique().tolist()
    chain = LogitsProcessorList(
        [
            transformers.SuppressTokensLogitsProcessor(banned),
            transformers.TemperatureLogitsWarper(0.5),
            transformers.TopKLogitsWarper(5),
            transformers.TopPLogitsWarper(0.9),
            transformers.MinPLogitsWarper(0.01),
        ]
    )
    out = run(llada, prompts, logits_processor=chain, **FULL)
    assert not torch.isin(out[:, -20:], torch.tensor(banned)).any()
    assert (out != MASK_ID).all()


def test_vocabulary_processors_do_the_same_one_position_at_a_time(llada, prompts):
    class OneByOne(transformers.TopKLogitsWarper):
        """Not known as a processor of the vocabulary only."""

    at_once = run(llada, prompts, logits_processor=[transformers.TopKLogitsWarper(2)], **FULL)
    single = run(llada, prompts, logits_processor=[OneByOne(2)], **FULL)
    assert torch.equal(at_once, single)


def test_processors_that_count_positions_or_read_the_text(llada, prompts):
    prompt = prompts[0]
    forced = transformers.ForcedEOSTokenLogitsProcessor(len(prompt) + 6, 9)
    out = run(llada, [prompt], logits_processor=[forced], **FULL)
    assert out[0, len(prompt) + 5] == 9
    end = int(run(llada, [prompt], **FULL)[0, len(prompt) + 3])
    longer = transformers.MinNewTokensLengthLogitsProcessor(len(prompt), 12, end)
    out = run(llada, [prompt], logits_processor=[longer], **FULL)
    assert end not in out[0, len(prompt) : len(prompt) + 12]
    allowed = lambda batch, text: [5, 6, 7] if batch == 0 else []  # noqa: E731
    only = transformers.PrefixConstrainedLogitsProcessor(allowed, 1)
    out = run(llada, [prompt], logits_processor=[only], **FULL)
    assert set(out[0, len(prompt) :].tolist()) <= {5, 6, 7}
    penalty = transformers.RepetitionPenaltyLogitsProcessor(1e4)
    out = run(llada, [prompt], logits_processor=[penalty], steps=20, threshold=None, **FULL)
    answer = out[0, len(prompt) :].tolist()
    assert not set(answer[8:]) & set(answer[:8]) and not set(answer) & set(prompt)


def test_processors_work_with_guidance_and_on_dream(llada, dream, prompts):
    banned = transformers.SuppressTokensLogitsProcessor([3, 4, 5])
    for model, options in ((llada, {"cfg_scale": 1.0}), (dream, {"cache": "dual"})):
        out = run(model, prompts[:2], logits_processor=[banned, lambda ids, x: x], **options)
        assert not torch.isin(out[:, -20:], torch.tensor([3, 4, 5])).any()


def test_a_processor_that_leaves_nothing_is_an_error(llada, prompts):
    nothing = lambda ids, scores: torch.full_like(scores, -torch.inf)  # noqa: E731
    with pytest.raises(NaNLogitsError, match="row 0, block 0, forward 0"):
        run(llada, prompts[:1], logits_processor=[nothing])


THEIRS = r"^the logits after the logits processors are NaN \(the model's are not\) for row "
MODELS = "^the model gave NaN logits for row "


def spoils_from(call, value):
    """A processor that spoils one logit from a call on."""
    calls = []

    def spoil(ids, scores):
        calls.append(1)
        scores = scores.clone()
        scores[:, 7] = value if len(calls) > call else scores[:, 7]
        return scores

    return spoil


@pytest.mark.parametrize("by_engine", [False, True], ids=["generate", "engine"])
@pytest.mark.parametrize("call", [0, 12])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cache": "dual", "refresh": "recent"},
        {"cache": "prefix", "cfg_scale": 1.0},
        {"commit": "klass", "threshold": None, "temperature": 0.5},
        {"length": {"initial_length": 10}},
    ],
)
def test_whose_nan_it_is(llada, prompts, options, call, by_engine):
    """The processors', the model's, or both: then the model's come first."""
    head, calls = llada.model.transformer.ff_out, []
    options = {**OPTIONS, "early_stop": False, **options}

    def broken(module, given, out):
        calls.append(1)
        return out.fill_(torch.nan) if len(calls) > call // 8 else out

    def decoded(processor):
        if not by_engine:
            return dpad.generate(llada, [prompts[1]], logits_processor=[processor], **options)
        engine = dpad.Engine(llada)
        asked = engine.submit(prompts[1], logits_processor=[processor], **options)
        other = engine.submit(prompts[0], **options)  # in the same passes, and goes on
        try:
            return asked.result()
        finally:
            if not head._forward_hooks:
                alone = dpad.generate(llada, [prompts[0]], **options)
                assert torch.equal(other.result().sequences, alone)
            engine.close()

    for value in (torch.nan, torch.inf):
        with pytest.raises(NaNLogitsError, match=THEIRS + r"\d+, block \d, forward \d+: nothing"):
            decoded(spoils_from(call, value))
    hook = head.register_forward_hook(broken)
    for processor in (lambda ids, x: x, spoils_from(call, torch.nan)):
        calls.clear()
        with pytest.raises(NaNLogitsError, match=MODELS):
            decoded(processor)
    hook.remove()


def test_nan_behind_a_hook_on_the_logits(dream, prompts):
    """The hook sees the whole canvas and cannot be left out."""
    options = {"max_new_tokens": 8, "steps": 8, "compatible": "dream", "alg": "entropy"}
    spoil = {"generation_logits_hook_func": lambda step, x, logits: logits * torch.nan}
    with pytest.raises(NaNLogitsError, match="^the model, or a hook on its logits, gave NaN"):
        dpad.generate(dream, [prompts[1]], **options, **spoil)
    dpad.generate(dream, [prompts[1]], **options)


@pytest.mark.parametrize(
    "processors, error, words",
    [
        (lambda ids, scores: scores, TypeError, "logits_processor is a function"),
        ([3], TypeError, r"logits_processor\[0\] is a int"),
        (
            [transformers.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, None)],
            ValueError,
            "UnbatchedClassifierFreeGuidanceLogitsProcessor is refused: .*cfg_scale",
        ),
        (
            [transformers.WatermarkLogitsProcessor(320, "cpu")],
            ValueError,
            "WatermarkLogitsProcessor is refused: .*left neighbour",
        ),
        (
            [lambda ids, scores, cur_step: scores],
            ValueError,
            r"logits_processor\[0\] = function needs cur_step besides",
        ),
        (
            [transformers.PrefixConstrainedLogitsProcessor(lambda b, t: [1], 1)],
            ValueError,
            "PrefixConstrainedLogitsProcessor tells rows apart .*one row, not 2",
        ),
    ],
)
def test_processors_that_cannot_work_are_refused_by_name(llada, prompts, processors, error, words):
    state = torch.get_rng_state()
    with pytest.raises(error, match=words):
        dpad.generate(llada, prompts[:1] * 2, max_new_tokens=8, logits_processor=processors)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "result, words", [(lambda s: None, "NoneType"), (lambda s: s[:, :5], r"\[1, 5\]")]
)
def test_bad_results_of_a_processor_are_named(llada, prompts, result, words):
    with pytest.raises(ValueError, match=f"function returned {words}: expected scores"):
        run(llada, prompts[:1], logits_processor=[lambda ids, scores: result(scores)])


def cut_at(plain, row, prompt, count):
    """The answer of `plain` cut behind `count` tokens."""
    expected = plain[row].clone()
    expected[plain.shape[1] - 20 + count :] = EOS_ID
    return expected


@pytest.mark.parametrize("batching", [{}, {"micro_batch": 2}])
def test_a_criterion_ends_a_row_at_its_token(llada, prompts, batching):
    plain = run(llada, prompts, **FULL)
    counts = [3, 8, 11, 16, 20]
    wanted = [len(p) + n for p, n in zip(prompts, counts, strict=True)]
    asked = []

    def stop(input_ids, scores, **kwargs):
        assert scores is None and input_ids.shape[0] == 1 and not input_ids.is_inference()
        asked.append(input_ids.shape[1])
        row = next(r for r, p in enumerate(prompts) if input_ids[0, : len(p)].tolist() == p)
        return torch.tensor([input_ids.shape[1] == wanted[row]])

    out = run(
        llada,
        prompts,
        stopping_criteria=StoppingCriteriaList([stop]),
        return_dict_in_generate=True,
        **FULL,
        **batching,
    )
    for row, count in enumerate(counts):
        assert torch.equal(out.sequences[row], cut_at(plain, row, prompts[row], count))
    assert out.finish_reason == ["criteria"] * 4 + ["length"]
    whole = run(llada, prompts, return_dict_in_generate=True, **FULL)
    assert (out.forwards[:4] < whole.forwards[:4]).all()
    assert out.forwards[4] == whole.forwards[4]
    assert len(asked) == sum(counts)


def test_each_row_has_its_own_criteria(llada, prompts):
    """Cut at 3, 8 and 20 (the end) by its own list; one row has none."""
    plain = run(llada, prompts[:4], **FULL)
    lengths = [len(p) for p in prompts]
    longest = transformers.MaxLengthCriteria
    lists = [[longest(lengths[0] + 3)], [], [longest(lengths[2] + 8)], [longest(lengths[3] + 20)]]
    out = run(llada, prompts[:4], stopping_criteria=lists, micro_batch=3, trace=True, **FULL)
    for row, count in enumerate((3, 20, 8, 20)):
        assert torch.equal(out.sequences[row], cut_at(plain, row, prompts[row], count))
    assert out.finish_reason == ["criteria", "length", "criteria", "length"]


def test_criteria_of_transformers():
    model, tokenizer = dpad.demo.load()
    ids = tokenizer(dpad.demo.problems(1, seed=0)[0].prompt, return_tensors="pt")
    width = ids["input_ids"].shape[1]
    text = tokenizer.decode(dpad.generate(model, **ids)[0, width:], skip_special_tokens=True)
    stop = text[4:7]
    criteria = [transformers.StopStringCriteria(tokenizer, [stop])]
    out = dpad.generate(model, **ids, stopping_criteria=criteria)
    cut = tokenizer.decode(out[0, width:], skip_special_tokens=True)
    assert cut == text[: text.index(stop) + len(stop)]
    longest = [transformers.MaxLengthCriteria(width + 9)]
    out = dpad.generate(model, **ids, stopping_criteria=longest)
    assert tokenizer.decode(out[0, width:], skip_special_tokens=True) == text[:9]


def test_a_time_limit_keeps_the_finished_block(llada, prompts):
    plain = run(llada, prompts[:2], **FULL)
    late = [transformers.MaxTimeCriteria(1.0, time.time() - 60)]
    out = run(llada, prompts[:2], stopping_criteria=late, return_dict_in_generate=True, **FULL)
    for row in range(2):
        assert torch.equal(out.sequences[row], cut_at(plain, row, prompts[row], 8))
    assert out.finish_reason == ["criteria"] * 2
    early = [transformers.MaxTimeCriteria(600.0)]
    assert torch.equal(run(llada, prompts[:2], stopping_criteria=early, **FULL), plain)


def test_a_streamer_gets_what_a_criterion_leaves(llada, prompts):
    class Pieces:
        def __init__(self):
            self.pieces = []

        def put(self, value):
            self.pieces += value.tolist()

        def end(self):
            self.pieces.append("end")

    pieces, prompt = Pieces(), prompts[0]
    criteria = [transformers.MaxLengthCriteria(len(prompt) + 11)]
    out = run(llada, [prompt], streamer=pieces, stopping_criteria=criteria, **FULL)
    assert pieces.pieces == [*out[0, : len(prompt) + 11].tolist(), "end"]


def test_what_stands_behind_an_end_is_not_asked_about(llada, prompts):
    plain = run(llada, prompts[:1], **FULL)
    end, asked = int(plain[0, -18]), []

    def watch(input_ids, scores, **kwargs):
        asked.append(input_ids[0].tolist())
        return torch.tensor([False])

    out = run(
        llada,
        prompts[:1],
        stopping_criteria=[watch],
        eos_token_id=end,
        return_dict_in_generate=True,
    )
    assert all(end not in ids[len(prompts[0]) :] for ids in asked)
    assert out.finish_reason == ["stop"]


@pytest.mark.parametrize(
    "criteria, error, words",
    [
        (lambda ids, scores: False, TypeError, "stopping_criteria is a function"),
        ([None], TypeError, r"stopping_criteria\[0\] is a NoneType"),
        ([[], []], ValueError, "stopping_criteria holds 2 lists for 1 rows"),
        ([[3]], TypeError, r"stopping_criteria\[0\]\[0\] is a int"),
    ],
)
def test_bad_criteria_are_named(llada, prompts, criteria, error, words):
    with pytest.raises(error, match=words):
        dpad.generate(llada, prompts[:1], max_new_tokens=8, stopping_criteria=criteria)


def test_bad_answers_of_a_criterion_are_named(llada, prompts):
    for answer in (None, "x", [], torch.tensor([True, False]), torch.zeros(0)):
        with pytest.raises(ValueError, match="function returned .*: expected True or False"):
            run(llada, prompts[:1], stopping_criteria=[lambda *_, answer=answer: answer])
    start = len(prompts[0])
    for answer in (True, 1, torch.tensor([True]), torch.tensor(True), numpy.True_):
        out = run(llada, prompts[:1], stopping_criteria=[lambda *_, answer=answer: answer])
        assert out.shape[1] > start and len(set(out[0, start + 1 :].tolist())) <= 1


def test_criteria_that_read_scores_are_refused(llada, prompts):
    from transformers.generation.stopping_criteria import ConfidenceCriteria

    with pytest.raises(ValueError, match="ConfidenceCriteria is refused"):
        run(llada, prompts[:1], stopping_criteria=[ConfidenceCriteria(0.4)])


@pytest.mark.parametrize("option", ["logits_processor", "stopping_criteria"])
def test_what_they_raise_reaches_the_caller_and_nothing_is_lost(llada, prompts, option):
    def fail(input_ids, scores):
        raise KeyError("mine")

    expected = run(llada, prompts)
    with dpad.patch(llada) as handle:
        entries = dict(llada.__dict__)
        with pytest.raises(KeyError, match="mine"):
            llada.generate([prompts[0]], **OPTIONS, **{option: [fail]})
        assert llada.__dict__ == entries and len(handle._workspaces.free) == 1
        ids, mask = pad(prompts, "left")
        assert torch.equal(llada.generate(ids, attention_mask=mask, **OPTIONS), expected)
