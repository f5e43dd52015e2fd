"""The contract of the result: output fields, trace, streaming."""

import json

import pytest
import torch

import dpad
from dpad.generation.output import DPadOutput, Trace
from tests.generation.common import MASK_ID, pad

OPTIONS = {
    "max_new_tokens": 40,
    "block_length": 16,
    "threshold": 0.6,
    "suffix": dpad.Suffix("gaussian", window=24, decay=3.0, scale=1.6),
}


def run(model, prompts, **options):
    ids, mask = pad(prompts, "left")
    return ids, dpad.generate(model, ids, attention_mask=mask, **{**OPTIONS, **options})


def test_default_is_a_tensor(llada, prompts):
    ids, out = run(llada, prompts)
    assert isinstance(out, torch.Tensor)
    assert out.dtype == torch.int64
    assert torch.equal(out[:, : ids.shape[1]], ids)


def test_output_fields(llada, prompts):
    _, out = run(llada, prompts, return_dict_in_generate=True, seed=4)
    assert isinstance(out, DPadOutput)
    assert out.seed == 4 and out.trace is None
    rows = len(prompts)
    assert out.forwards.shape == out.tokens_per_forward.shape == (rows,)
    assert (out.tokens_per_forward >= 1).all()
    assert torch.equal(out.tokens_per_forward * out.forwards, torch.full((rows,), 40.0).double())
    assert [len(k) for k in out.kept_suffix] == [3] * rows
    assert set(out.finish_reason) <= {"stop", "length"}
    assert out.timings["total"] > 0 and out.timings["positions"] > 0
    for prompt, blocks in zip(prompts, out.kept_suffix, strict=True):
        for number, kept in enumerate(blocks):
            end = min(len(prompt) + 16 * (number + 1), len(prompt) + 40)
            assert ((kept >= end) & (kept < min(end + 24, len(prompt) + 40))).all()


def test_forwards_of_a_row_are_those_that_it_takes_alone(llada, prompts):
    options = {"return_dict_in_generate": True, "seed": 4, "cache": "prefix"}
    _, out = run(llada, prompts, **options)
    assert len(set(out.forwards.tolist())) > 1  # rows end at different steps
    for row, prompt in enumerate(prompts):
        _, alone = run(llada, [prompt], row_keys=[row], **options)
        assert alone.forwards[0] == out.forwards[row]
        assert alone.tokens_per_forward[0] == out.tokens_per_forward[row]


def test_a_drawn_seed_is_returned_and_replays(llada, prompts):
    torch.manual_seed(3)
    _, first = run(llada, prompts, return_dict_in_generate=True, temperature=1.0)
    torch.manual_seed(3)
    _, again = run(llada, prompts, return_dict_in_generate=True, temperature=1.0)
    _, replay = run(llada, prompts, seed=first.seed, temperature=1.0)
    assert first.seed == again.seed
    assert torch.equal(first.sequences, replay)
    _, other = run(llada, prompts, seed=first.seed + 1, temperature=1.0)
    assert not torch.equal(first.sequences, other)


def test_trace_accounts_for_every_token(llada, prompts, tmp_path):
    ids, out = run(llada, prompts, trace=True, early_stop=False, compatible="dpad-llada")
    canvas = {}
    for event in out.trace.events:
        assert event["kept"] is None or event["kept"] == sorted(event["kept"])
        for p, t, c in zip(event["positions"], event["tokens"], event["confidence"], strict=True):
            assert 0 <= c <= 1
            canvas[event["row"], p] = t
    for row, prompt in enumerate(prompts):
        answer = [canvas[row, len(prompt) + i] for i in range(40)]
        assert answer == out.sequences[row, ids.shape[1] :].tolist()
    path = tmp_path / "trace.jsonl"
    out.trace.save(path)
    read = Trace.load(path)
    assert read.header["format"] == "dpad-trace" and read.header["version"] == 1
    assert read.events == json.loads(json.dumps(out.trace.events))
    path.write_text('{"format": "other", "version": 9}\n')
    with pytest.raises(ValueError, match="other"):
        Trace.load(path)


def test_everything_behind_the_first_end_is_padding(llada, prompts):
    ids, raw = run(llada, prompts, compatible="dpad-llada", early_stop=False, seed=0)
    end = int(raw[0, ids.shape[1] + 5])
    _, out = run(llada, prompts, eos_token_id=end, pad_token_id=2, early_stop=False, seed=0)
    for row in range(len(prompts)):
        answer, kept = out[row, ids.shape[1] :], raw[row, ids.shape[1] :]
        where = (kept == end).nonzero()[:, 0]
        cut = int(where[0]) + 1 if where.numel() else 40
        assert torch.equal(answer[:cut], kept[:cut])
        assert (answer[cut:] == 2).all()


class Recorder:
    def __init__(self):
        self.pieces, self.ended = [], 0

    def put(self, value):
        self.pieces.append(value.flatten().tolist())

    def end(self):
        self.ended += 1


def raw_prefix(out, prompt):
    return out[0, len(prompt) : len(prompt) + 16].tolist()


def test_streamer_gets_prompt_and_blocks(llada, prompts):
    recorder = Recorder()
    out = dpad.generate(llada, [prompts[0]], streamer=recorder, early_stop=False, **OPTIONS)
    assert recorder.pieces[0] == prompts[0]
    assert [len(p) for p in recorder.pieces[1:]] == [16, 16, 8]
    assert MASK_ID not in sum(recorder.pieces, [])
    assert sum(recorder.pieces[1:], [])[:16] == raw_prefix(out, prompts[0])
    assert recorder.ended == 1
    with pytest.raises(ValueError, match="one row"):
        dpad.generate(llada, prompts[:1] * 2, streamer=recorder, **OPTIONS)


def test_streamer_stops_at_the_first_end(llada, prompts):
    seeded = {**OPTIONS, "seed": 2}
    raw = dpad.generate(llada, [prompts[0]], compatible="dpad-llada", early_stop=False, **seeded)
    end = int(raw[0, len(prompts[0]) + 5])
    recorder = Recorder()
    dpad.generate(llada, [prompts[0]], streamer=recorder, eos_token_id=end, **seeded)
    text = sum(recorder.pieces[1:], [])
    assert text.count(end) == 1 and text[-1] == end
