"""Texts with gaps: identities, published traces, combinations and refusals."""

import json

import pytest
import torch

import dpad
from dpad.decode import graphs
from dpad.engine import Block
from tests.doubles.recorded_calls import RecordedCalls
from tests.generation.common import EOS_ID, GOLDEN, MASK_ID, logits, pad
from tests.generation.test_block_decoding import load
from tests.generation.test_rnd1_golden import supplied_noise
from tests.models.families import golden

M = MASK_ID
OPTIONS = {
    "infill": True,
    "block_length": 8,
    "confidence_threshold": 0.6,
    "mask_token_id": M,
    "seed": 5,
    "return_dict_in_generate": True,
}
THIN = dpad.Suffix("gaussian", window=12, decay=2.0, scale=1.2)
COMBINED = {
    "none": {},
    "prefix": {"cache": "prefix"},
    "dual": {"cache": "dual"},
    "recent": {"cache": "dual", "refresh": "recent"},
    "quota": {"steps": 12, "confidence_threshold": None},
    "drawn": {"cache": "prefix", "temperature": 0.7, "top_p": 0.9},
    "stable": {"confidence_threshold": None, "commit": dpad.rules.Klass(0.3, 0.1, 1)},
    "guided": {"cache": "dual", "cfg_scale": 0.5},
    "grows": {"cache": "dual", "length": {"expansion": 4, "low_confidence": 0.3}},
}


@pytest.fixture
def texts():
    """Texts with gaps of every kind: inside, in a row, single, at the end."""
    generator = torch.Generator().manual_seed(3)

    def text(n, *gaps):
        ids = torch.randint(0, 290, (n,), generator=generator).tolist()
        for start, end in gaps:
            ids[start:end] = [M] * (end - start)
        return ids

    return [
        text(30, (4, 15), (20, 22)),
        text(12, (1, 2), (5, 6), (11, 12)),
        text(40, (10, 40)),
        [*text(20, (3, 9)), EOS_ID, M, M, 17],
    ]


def padded(texts, side):
    width = max(map(len, texts))
    rows = [[300] * (width - len(t)) for t in texts]
    ids = [r + t if side == "left" else t + r for r, t in zip(rows, texts, strict=True)]
    mask = [[0] * len(r) + [1] * len(t) for r, t in zip(rows, texts, strict=True)]
    return torch.tensor(ids), torch.tensor([m if side == "left" else m[::-1] for m in mask])


def generate(model, texts, side="left", **changes):
    ids, mask = padded(texts, side)
    return dpad.generate(model, ids, attention_mask=mask, **{**OPTIONS, **changes})


def test_the_text_stays_and_the_gaps_are_filled(model, texts):
    for side in ("left", "right"):
        ids, mask = padded(texts, side)
        out = generate(model, texts, side)
        given = (ids != M) | (mask == 0)
        assert torch.equal(out.sequences[given], ids[given]) and M not in out.sequences
        assert out.finish_reason == ["length"] * 4
        filled = [t.count(M) for t in texts]
        assert (out.tokens_per_forward * out.forwards).round().tolist() == filled


@pytest.mark.parametrize("suffix", [dpad.Suffix("all"), THIN], ids=["all", "thin"])
@pytest.mark.parametrize("name", [n for n in COMBINED if n != "grows"])
def test_a_gap_at_the_end_is_what_generate_writes(model, prompts, name, suffix):
    # No end id is written: behind one `generate` returns padding.
    options = {"suffix": suffix, "early_stop": False, "logits_eos_inf": True, **COMBINED[name]}
    plain = generate(model, prompts, infill=False, max_new_tokens=24, **options)
    same = generate(model, [[*p, *[M] * 24] for p in prompts], **options)
    assert torch.equal(same.sequences, plain.sequences)
    assert torch.equal(same.forwards, plain.forwards)
    for kept, wanted in zip(same.kept_suffix, plain.kept_suffix, strict=True):
        assert all(map(torch.equal, kept, wanted))


def plain_loop(model, text, shift, block_length=8, threshold=0.6, guidance=0.0):
    """Masks of each window of the text, left to right, on the stock forward; ids and passes."""
    ids, passes = torch.tensor([text]), 0
    given = ids != M
    while (ids == M).any():
        start = int((ids[0] == M).nonzero()[0])
        window = torch.zeros_like(ids, dtype=torch.bool)
        window[0, start : start + block_length] = True
        while (masked := (ids == M) & window).any():
            found = logits(model, ids)
            if guidance:
                hidden = logits(model, ids.masked_fill(given, M))
                found = hidden + (guidance + 1) * (found - hidden)
            if shift:
                found = torch.cat((found[:, :1], found[:, :-1]), 1)
            found[..., M] = -torch.inf
            probability, token = found.softmax(-1).max(-1)
            probability = probability.masked_fill(~masked, -1)
            commit = (probability >= threshold) | (probability == probability.max())
            ids, passes = torch.where(commit & masked, token, ids), passes + 1
    return ids, passes


@pytest.mark.parametrize("guidance", [0.0, 0.5])
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_with_everything_kept_it_is_the_plain_loop(request, texts, family, guidance):
    model = request.getfixturevalue(family)
    for text in texts:
        out = generate(model, [text], suffix="all", cache="none", cfg_scale=guidance)
        ids, passes = plain_loop(model, text, family == "dream", guidance=guidance)
        assert torch.equal(out.sequences, ids) and out.forwards.tolist() == [passes]


def rnd1_traces():
    for trace in json.loads((GOLDEN / "rnd1.json").read_text())["traces"]:
        if trace["suffix"] is not None:
            yield pytest.param(trace, id=trace["id"])


@pytest.mark.parametrize("trace", rnd1_traces())
def test_rnd1s_own_infilling(trace):
    """Its `generate` puts the pad that it keeps a place for behind the text."""
    settings = trace["settings"]
    out = dpad.generate(
        golden("RND1LM", "rnd1"),
        trace["canvas"],
        compatible="rnd1",
        infill=True,
        steps=settings["num_diffusion_steps"],
        temperature=settings["temperature"],
        mask_token_id=M,
        noise=supplied_noise(trace),
        trace=True,
    )
    assert out.sequences.tolist() == trace["final"]
    assert out.forwards.tolist() == [trace["forwards"]]
    found = [sorted(zip(e["positions"], e["tokens"], strict=True)) for e in out.trace.events]
    wanted = [sorted((p, t) for _, p, t in step["commit"]) for step in trace["steps"]]
    assert found == wanted


@pytest.mark.parametrize("suffix", [dpad.Suffix("none"), THIN], ids=["none", "thin"])
@pytest.mark.parametrize("name", COMBINED)
def test_alone_as_in_a_batch_as_in_an_engine(model, texts, name, suffix):
    options = {"suffix": suffix, "max_new_tokens": 40, **COMBINED[name]}
    batch = generate(model, texts, **options)
    right = generate(model, texts, "right", **options)
    assert torch.equal(right.forwards, batch.forwards)
    given = {**OPTIONS, **options}
    with dpad.Engine(model, max_sequences=3, max_tokens=200) as engine:
        requests = [engine.submit(t, row_key=row, **given) for row, t in enumerate(texts)]
        others = [engine.submit(t[:1], max_new_tokens=16, mask_token_id=M) for t in texts]
        for row, (text, request) in enumerate(zip(texts, requests, strict=True)):
            alone = generate(model, [text], row_keys=[row], **options)
            own = alone.sequences[0].tolist()
            width = batch.sequences.shape[1]
            start = 0 if name == "grows" else width - len(own)
            assert batch.sequences[row, start : start + len(own)].tolist() == own
            assert batch.forwards[row] == alone.forwards[0]
            assert request.result().sequences.tolist() == [own]
            usage = list(request)[-1].usage
            assert usage.prompt_tokens == len(text) - text.count(M)
            assert usage.completion_tokens == len(own) - usage.prompt_tokens <= 40
        assert all(r.result() is not None for r in others)


def test_guidance_hides_text_on_both_sides(llada, texts):
    """Prompts that differ behind the gap only: the second stream sees neither text."""
    seen, embedding = [], llada.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    try:
        out = generate(llada, texts[:1], suffix="all", cache="none", cfg_scale=0.5)
    finally:
        hook.remove()
    assert len(seen) == out.forwards[0] > 2
    given = torch.tensor(texts[0]) != M
    for tokens in seen:
        first, second = tokens.view(2, -1)
        assert torch.equal(first[given], torch.tensor(texts[0])[given])
        assert (second[given] == M).all() and torch.equal(first[~given], second[~given])


def test_gaps_grow_and_the_text_around_them_stays(model, texts):
    growth = {"expansion": 4, "low_confidence": 0.6}
    options = {"cache": "prefix", "length": growth, "max_new_tokens": 34, "trace": True}
    longer = 0
    for text in texts:
        out = generate(model, [text], **options)
        row, given = out.sequences[0].tolist(), [t for t in text if t != M]
        assert M not in row and len(row) <= len(given) + 34
        longer += len(row) > len(text)
        written = {p for e in out.trace.events for p in e["positions"]}
        assert [t for p, t in enumerate(row) if p not in written] == given
    assert longer > 2


def test_the_configuration_of_a_trace_decodes_the_same(model, texts, tmp_path):
    growth = {"expansion": 4, "low_confidence": 0.6}
    out = generate(model, texts, length=growth, max_new_tokens=34, trace=True)
    again = dpad.DPadGenerationConfig(**out.trace.header["config"])
    ids, mask = pad(texts, "left")
    same = dpad.generate(model, ids, attention_mask=mask, generation_config=again)
    assert torch.equal(same.sequences, out.sequences) and out.sequences.shape[1] > ids.shape[1]
    out.trace.save(tmp_path / "trace.jsonl")
    assert dpad.Trace.load(tmp_path / "trace.jsonl") == out.trace


def test_text_behind_a_block_is_never_thinned(llada, texts):
    out = generate(llada, texts, suffix="none", cache="dual")
    for text, kept in zip(texts, out.kept_suffix, strict=True):
        for positions in kept:  # all the text from some position on, and no mask
            first = min(positions.tolist(), default=len(text))
            assert positions.tolist() == [p for p in range(first, len(text)) if text[p] != M]
    # The first text's first block is [4, 12); its second one spans the text between two gaps.
    behind = [p for p in range(12, 30) if texts[0][p] != M]
    assert out.kept_suffix[0][0].tolist() == behind


def test_events_hold_the_text_from_the_first_gap_on(llada, texts):
    with dpad.Engine(llada) as engine:
        for text in texts:
            request = engine.submit(text, stream="blocks", **OPTIONS)
            blocks = [e.tokens for e in request if isinstance(e, Block)]
            filled = request.result().sequences[0]
            assert torch.equal(torch.cat(blocks), filled[text.index(M) :])


def test_a_streamer_gets_the_whole_text(llada, texts):
    class Streamer:
        def __init__(self):
            self.ids = []

        def put(self, value):
            self.ids += value.flatten().tolist()

        def end(self):
            self.ids.append(None)

    streamer = Streamer()
    out = generate(llada, texts[3:], streamer=streamer, progress=True)
    assert streamer.ids == [*out.sequences[0].tolist(), None]


@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_captured_steps_decide_the_same(monkeypatch, llada, texts, guidance):
    options = {"cache": "dual", "suffix": THIN, "cfg_scale": guidance}
    eager = generate(llada, texts, **options)
    monkeypatch.setitem(graphs.CAPTURES, "cpu", RecordedCalls)
    found = generate(llada, texts, **options)
    assert torch.equal(found.sequences, eager.sequences) and found.timings["replayed"] > 0


def test_a_trace_comes_back_from_its_file(tmp_path, llada, texts):
    out = generate(llada, texts, trace=True)
    out.trace.save(tmp_path / "trace.jsonl")
    assert dpad.Trace.load(tmp_path / "trace.jsonl") == out.trace
    out.trace._repr_html_()


def test_a_template_with_the_mask_token_is_read_by_the_tokenizer():
    model, tokenizer = dpad.demo.load()
    text = f"<|startoftext|>ab{tokenizer.mask_token}{tokenizer.mask_token}cd"
    out = dpad.generate(model, [text], tokenizer=tokenizer, infill=True)
    ids = tokenizer(text)["input_ids"]
    assert ids.count(tokenizer.mask_token_id) == 2
    assert out.shape == (1, len(ids)) and tokenizer.mask_token_id not in out


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"output_history": True}, "infill = True and output_history = True"),
        ({"compatible": "llada"}, "compatible = 'llada': that program fills no gaps"),
        ({"compatible": "daedal"}, "compatible = 'daedal': that program fills no gaps"),
        ({"kept_suffix": [[0]]}, "kept_suffix is given and infill = True"),
        ({"stopping_criteria": [lambda ids, scores: False]}, "stopping_criteria is given and inf"),
        (
            {"steps": 1, "confidence_threshold": None},
            "less than the 3 blocks of a text's gaps",
        ),
        (
            {"length": "daedal", "max_new_tokens": 12},
            "row 0 has 13 masks, more than max_new_tokens",
        ),
        ({"length": "daedal", "max_new_tokens": 250}, "text of 17 . masks of 250 = 267 positions"),
        ({"infill": False, "max_new_tokens": 8}, "goes with infill=True"),
    ],
)
def test_what_is_refused(llada, texts, changes, message):
    with pytest.raises(ValueError, match=message):
        generate(llada, texts[:1], **changes)


def test_rows_that_cannot_be_filled_are_refused(llada, dream):
    with pytest.raises(ValueError, match="row 1 holds no mask 311, and infill = True"):
        generate(llada, [[1, M], [1, 2]])
    with pytest.raises(ValueError, match="row 0 begins with a mask"):
        generate(dream, [[M, 2]])
    assert M not in generate(llada, [[M, 2]]).sequences
    with pytest.raises(ValueError, match="block-causal attention and sees nothing behind a block"):
        generate(load("sdar"), [[1, M, 3]], cache="prefix", suffix="none")
    message = "a text of 20 . gaps = 21 positions in 1 streams"
    with dpad.Engine(llada, max_tokens=20) as engine, pytest.raises(ValueError, match=message):
        engine.submit([*range(20), M], **OPTIONS)
