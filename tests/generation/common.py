"""What the interface tests share: the golden models' ids, padding, logits and how near they are."""

import json
from pathlib import Path

import torch
from torch import nn

import dpad
from dpad.decode import graphs, phases
from tests.doubles.recorded_calls import RecordedCalls

GOLDEN = Path(__file__).parents[1] / "golden"
META = json.loads((GOLDEN / "llada_mha.config.json").read_text())
DREAM = json.loads((GOLDEN / "dream_mha.config.json").read_text())
MASK_ID, EOS_ID = META["mask_id"], META["eos_id"]


def pad(prompts, side, value=EOS_ID):
    """``input_ids`` and ``attention_mask`` of ragged prompts, padded on one side."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), value)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        where = slice(width - len(prompt), width) if side == "left" else slice(0, len(prompt))
        ids[row, where] = torch.tensor(prompt)
        mask[row, where] = 1
    return ids, mask


@torch.no_grad()
def logits(model, *args, **kwargs):
    return model(*args, **kwargs).logits


def assert_close(got, want, tolerance=1e-5):
    """Float32 logits that differ by rounding only; `tolerance` in units of the largest logit."""
    assert got.dtype == want.dtype
    assert (got - want).abs().max() <= tolerance * want.abs().max()


class Doubled(nn.Module):
    """A wrapper as LoRA's: the plain layer inside, something else around it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


def assert_replayed_as_eager(monkeypatch, model, prompts, generate, options):
    """Steps that a recorder replays give what eager ones give, twice; some of them are replayed."""
    with dpad.patched(model, cuda_graphs=False):
        eager = generate(model, prompts, **options)
    monkeypatch.setitem(graphs.CAPTURES, "cpu", RecordedCalls)
    with dpad.patched(model):
        for _ in range(2):
            out = generate(model, prompts, **options)
            assert torch.equal(out.sequences, eager.sequences)
            assert torch.equal(out.forwards, eager.forwards)
            assert out.timings["replayed"] > 0


def skip_a_save(monkeypatch):
    """A planted bug: the K/V of block 1 is taken for exact while it holds that of masks."""
    passed = phases.passed

    def skipping(q, *state):
        status = passed(q, *state)
        if status is not None and q.block == 1:
            q.saved = q.window[1]
        return status

    monkeypatch.setattr("dpad.decode.decoder.passed", skipping)
