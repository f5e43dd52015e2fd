"""Random sessions: captured steps decide what eager ones do, whatever was called and done before.

A session is one model, patched with graphs, and a copy of it, patched without. Both get the same
calls and the same changes in between. `DPAD_CASES` asks for more sessions.
"""

import contextlib
import copy
import os
import pickle
import random
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dpad
from dpad.decode import graphs
from dpad.decode.decoder import NaNLogitsError
from tests.decode.common import EOS_ID
from tests.doubles.recorded_calls import RecordedCalls
from tests.generation.common import Doubled
from tests.generation.random_calls import MODELS, batch, callers_code, options

AROUND = (
    contextlib.nullcontext,
    torch.no_grad,
    torch.inference_mode,
    lambda: torch.autocast("cpu", dtype=torch.bfloat16),
)


def seen_by(arguments):
    return [value.seen for value in arguments.values() if hasattr(value, "seen")]


def call(model, arguments, around, make):
    """(output or error, what the caller's code saw)."""
    given = make()
    with around():
        try:
            out = model.generate(**arguments, **given)
        except (KeyError, NaNLogitsError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}", seen_by(given)
    return out, seen_by(given)


def same(out, wanted):
    if isinstance(out, str) or isinstance(wanted, str):
        return out == wanted
    return (
        torch.equal(out.sequences, wanted.sequences)
        and torch.equal(out.forwards, wanted.forwards)
        and out.finish_reason == wanted.finish_reason
        and list(map(decided, out.trace.events)) == list(map(decided, wanted.trace.events))
    )


def decided(event):
    """All of a trace's event but its time and the last bits of its confidences."""
    return {n: v for n, v in event.items() if n not in ("time", "confidence")}


class Session:
    def __init__(self, seed):
        self.draw = draw = random.Random(seed)
        torch.manual_seed(seed)
        self.captured = draw.choice(MODELS)()
        self.eager = copy.deepcopy(self.captured)
        self.options = {"fuse_projections": draw.random() < 0.3}
        self.replayed = 0
        self.patch()

    def patch(self):
        dpad.patch(self.captured, **self.options)
        dpad.patch(self.eager, cuda_graphs=False, **self.options)

    def both(self):
        return self.captured, self.eager

    def generate(self):
        draw = self.draw
        shift = self.captured._dpad_handle.adapter.shift
        arguments = batch(draw, shift)
        rows = len(arguments["input_ids"])
        arguments |= options(draw, rows, shift)
        make, around = callers_code(draw, rows), draw.choice(AROUND)
        if make is not dict:
            for name in ("num_return_sequences", "micro_batch"):
                arguments.pop(name, None)
        out, seen = call(self.captured, arguments, around, make)
        wanted, wanted_seen = call(self.eager, arguments, around, make)
        assert same(out, wanted), (out, wanted, arguments)
        assert seen == wanted_seen, arguments
        assert "could not be captured" not in repr(self.captured._dpad_handle)
        if not isinstance(out, str):
            self.replayed += out.timings["replayed"]

    def threads(self):
        draw = self.draw
        calls = [batch(draw, 1) for _ in range(3)]
        shift = self.captured._dpad_handle.adapter.shift
        calls = [{**c, **options(draw, len(c["input_ids"]), shift)} for c in calls]
        found = [None] * len(calls)

        def run(i):
            found[i] = call(self.captured, calls[i], contextlib.nullcontext, dict)[0]

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for out, arguments in zip(found, calls, strict=True):
            wanted, _ = call(self.eager, arguments, contextlib.nullcontext, dict)
            assert same(out, wanted), (out, wanted, arguments)

    def weight(self, model):
        weights = [p for n, p in sorted(model.named_parameters()) if p.dim() == 2]
        return weights[self.draw.randrange(len(weights))]

    @torch.no_grad()
    def scale(self):
        state = self.draw.getstate()
        for model in self.both():
            self.draw.setstate(state)
            self.weight(model).mul_(1.2)

    def projection(self, model):
        names = [n for n, _ in sorted(model.named_modules()) if n.endswith(("up_proj", "v_proj"))]
        parent, _, name = names[self.draw.randrange(len(names))].rpartition(".")
        return model.get_submodule(parent), name

    def replace(self):
        state = self.draw.getstate()
        for model in self.both():
            self.draw.setstate(state)
            parent, name = self.projection(model)
            old = getattr(parent, name)
            if isinstance(old, nn.Linear):
                old.weight = nn.Parameter(old.weight.detach() * 0.9)

    def wrap(self):
        state = self.draw.getstate()
        for model in self.both():
            self.draw.setstate(state)
            parent, name = self.projection(model)
            old = getattr(parent, name)
            setattr(parent, name, old.inner if isinstance(old, Doubled) else Doubled(old))

    def nan(self):
        """A call whose logits are NaN, then the weights as they were."""
        state, kept = self.draw.getstate(), []
        for model in self.both():
            self.draw.setstate(state)
            parent, name = self.projection(model)
            weight = next(getattr(parent, name).parameters())
            kept.append((weight, weight.detach().clone()))
            weight.data[0] = torch.nan
        for model in self.both():  # what is fused is told
            model._dpad_handle._adapter = None
        self.generate()
        for weight, old in kept:
            weight.data.copy_(old)
        for model in self.both():
            model._dpad_handle._adapter = None

    def half(self):
        dtype = torch.bfloat16 if self.captured.dtype == torch.float32 else torch.float32
        for model in self.both():
            model.to(dtype)

    def again(self):
        for model in self.both():
            model._dpad_handle.remove()
        self.patch()

    def copied(self):
        self.captured = copy.deepcopy(self.captured)

    def pickled(self):
        if "transformers_modules" not in type(self.captured).__module__:  # which is no file's
            self.captured = pickle.loads(pickle.dumps(self.captured))

    def gradients(self):
        for model in self.both():
            model.requires_grad_(self.draw.random() < 0.5)

    def likelihood(self):
        pairs = [([1, 2, 3], [4] * self.draw.randint(2, 40))]
        found = [dpad.loglikelihood(m, pairs, samples=4, seed=1).value for m in self.both()]
        assert torch.equal(*found)

    def forward(self):
        ids = torch.randint(0, EOS_ID, (2, self.draw.choice((5, 60))))
        with torch.no_grad():
            assert torch.equal(self.captured(ids).logits, self.eager(ids).logits)


BETWEEN = (
    "scale", "replace", "wrap", "half", "again", "copied", "pickled", "gradients", "likelihood",
    "forward", "threads", "nan",
)  # fmt: skip


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    monkeypatch.setitem(graphs.CAPTURES, "cpu", RecordedCalls)


@pytest.mark.slow(reason="random sessions of many calls")
@settings(max_examples=int(os.environ.get("DPAD_CASES", "8")))
@given(seed=st.integers(0, 10**6))
def test_sessions(seed):
    session = Session(seed)
    for _ in range(session.draw.randint(2, 6)):
        session.generate()
        if session.draw.random() < 0.6:
            getattr(session, session.draw.choice(BETWEEN))()
