"""Streamers: prompt, drafts, finished blocks, and an end in any case."""

import re

import pytest
import torch
import transformers

import dpad
from tests.generation.common import MASK_ID

OPTIONS = {"max_new_tokens": 40, "block_length": 16, "threshold": 0.6, "seed": 2}


class Recorder:
    """A streamer with `put` and `end` only."""

    def __init__(self):
        self.events = []

    def put(self, value):
        self.events.append(("put", value.clone()))

    def end(self):
        self.events.append(("end", None))

    def all(self, kind):
        return [value for name, value in self.events if name == kind]


class DraftRecorder(Recorder):
    def put_draft(self, value):
        self.events.append(("draft", value.clone()))


class LogitsRecorder(Recorder):
    _takes_logits = True

    def put_draft(self, logits):
        self.events.append(("draft", logits.clone()))


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_drafts_come_every_step_and_end_in_the_block(llada, prompts, cache):
    recorder = DraftRecorder()
    options = {**OPTIONS, "cache": cache, "early_stop": False, "return_dict_in_generate": True}
    plain = dpad.generate(llada, [prompts[0]], **options)
    out = dpad.generate(llada, [prompts[0]], streamer=recorder, **options)
    assert torch.equal(out.sequences, plain.sequences)
    assert len(recorder.all("draft")) == int(out.forwards[0])
    kinds = [name for name, _ in recorder.events]
    assert kinds[:2] == ["put", "draft"] and kinds[-2:] == ["put", "end"]
    previous = None
    for name, value in recorder.events[1:-1]:
        if name == "draft":
            assert value.dim() == 2 and value.shape[0] == 1 and (value != MASK_ID).all()
            assert value.device.type == "cpu" and value.dtype == torch.int64
        elif previous is not None:
            assert torch.equal(previous[0], value)
        previous = value if name == "draft" else None


def test_a_draft_holds_predictions_where_nothing_is_committed(llada, prompts):
    recorder, seen = DraftRecorder(), []

    def look(model, step, timestep, tensors):
        seen.append(tensors["block"][0])

    options = {**OPTIONS, "threshold": None, "steps": 12}
    dpad.generate(
        llada,
        [prompts[0]],
        streamer=recorder,
        callback_on_step_end=look,
        early_stop=False,
        **options,
    )
    drafts = recorder.all("draft")
    assert len(drafts) == len(seen) == 12
    assert any((block == MASK_ID).any() for block in seen)
    for draft, block in zip(drafts, seen, strict=True):
        committed = block != MASK_ID
        assert torch.equal(draft[0][committed], block[committed])


def test_logits_go_to_streamers_that_take_them(llada, prompts):
    recorder = LogitsRecorder()
    dpad.generate(llada, [prompts[0]], streamer=recorder, early_stop=False, **OPTIONS)
    drafts = recorder.all("draft")
    assert {tuple(d.shape) for d in drafts} == {(1, 16, 320), (1, 8, 320)}


def test_streamers_without_drafts_cost_no_step(llada, prompts):
    recorder = Recorder()
    dpad.generate(llada, [prompts[0]], streamer=recorder, early_stop=False, **OPTIONS)
    assert [len(v) for v in recorder.all("put")] == [len(prompts[0]), 16, 16, 8]
    assert len(recorder.all("end")) == 1


def test_text_streamers_of_transformers(capsys):
    model, tokenizer = dpad.demo.load()
    problem = dpad.demo.problems(1, seed=0)[0]
    ids = tokenizer(problem.prompt, return_tensors="pt")
    new = dpad.generate(model, **ids)[0, ids["input_ids"].shape[1] :]
    text = tokenizer.decode(new, skip_special_tokens=True)
    names = ["TextStreamer", "TextIteratorStreamer", "TextDiffusionStreamer"]
    tried = 0
    for name in names:
        if not hasattr(transformers, name):
            continue  # older than its release
        streamer = getattr(transformers, name)(
            tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        dpad.generate(model, **ids, streamer=streamer)
        shown = capsys.readouterr().out
        if name == "TextIteratorStreamer":
            shown = "".join(streamer)
        if name == "TextDiffusionStreamer":
            drafts = r"\x1b7\x1b\[33m.*?\x1b\[0m\x1b8\x1b\[J"
            assert re.search(drafts, shown)
            shown = re.sub(drafts, "", shown)
        assert shown.strip() == text.strip()
        tried += 1
    assert tried >= 2


@pytest.mark.parametrize("where", ["put", "put_draft"])
def test_a_streamer_that_fails_ends_and_leaves_the_model_alone(llada, prompts, where):
    class Failing(DraftRecorder):
        calls = 0

        def fail(self, *_, **__):
            self.calls += 1
            if self.calls == 2:
                raise OSError("pipe is closed")

    setattr(Failing, where, Failing.fail)
    expected = dpad.generate(llada, [prompts[0]], **OPTIONS)
    with dpad.patch(llada) as handle:
        streamer = Failing()
        with pytest.raises(OSError, match="pipe is closed"):
            llada.generate([prompts[0]], streamer=streamer, **OPTIONS)
        assert len(streamer.all("end")) == 1
        assert len(handle._workspaces.free) == 1  # given back
        assert torch.equal(llada.generate([prompts[0]], **OPTIONS), expected)


def test_bad_streamers_are_named(llada, prompts):
    with pytest.raises(TypeError, match=r"streamer is a object without put\(\)"):
        dpad.generate(llada, [prompts[0]], streamer=object(), **OPTIONS)
    with pytest.raises(ValueError, match="streamer takes one row, the batch has 2"):
        dpad.generate(llada, prompts[:1] * 2, streamer=Recorder(), **OPTIONS)
