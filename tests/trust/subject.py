"""What the checks of `generate` run: a tiny patched model, calls of many kinds, and its state."""

import random

import torch

import dpad
from tests.decode.common import EOS_ID, tiny
from tests.generation.random_calls import options


def calls(seed, number):
    """`number` random sets of arguments, each of one to three rows."""
    found = []
    for case in range(seed, seed + number):
        draw = random.Random(case)
        rows = draw.randint(1, 3)
        g = torch.Generator().manual_seed(case)
        ids = torch.randint(0, EOS_ID, (rows, draw.randint(1, 12)), generator=g)
        found.append({"input_ids": ids, **options(draw, rows, 0)})
    return found


class Subject:
    """A patched model; `generate` gives tokens only, `problem` says what a failed call left."""

    def __init__(self, **changes):
        self.model = tiny(**changes)
        self.handle = dpad.patch(self.model)
        self.weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.entries = sorted(vars(self.model))

    def generate(self, call):
        out = self.model.generate(**call)
        return out if isinstance(out, torch.Tensor) else out.sequences

    def problem(self, call, clean):
        """None where everything is as it was before, and the call gives the same tokens again."""
        state = self.model.state_dict()
        if not all(torch.equal(v, state[k]) for k, v in self.weights.items()):
            return "the weights changed"
        if sorted(vars(self.model)) != self.entries or self.model.training:
            return "the model's own entries changed"
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            return "the mode of gradients changed"
        if not torch.equal(self.generate(call), clean):
            return "the next call gave other tokens"
        return None


class EngineSubject(Subject):
    """The same calls through an engine, one request for each row."""

    def generate(self, call):
        taken = ("input_ids", "micro_batch", "num_return_sequences", "trace", "row_keys")
        chosen = {name: value for name, value in call.items() if name not in taken}
        with dpad.Engine(self.model, max_sequences=4, max_tokens=1024) as engine:
            rows = enumerate(call["input_ids"])
            requests = [engine.submit(row, row_key=key, **chosen) for key, row in rows]
            answers = [request.result(timeout=60).sequences[0] for request in requests]
        return torch.nn.utils.rnn.pad_sequence(answers, batch_first=True)
