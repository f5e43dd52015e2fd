"""What the benchmarks time: dpad, the ordinary loop, and the reference algorithm."""

import hashlib
import time
from dataclasses import dataclass

import torch

import dpad
from dpad import ops
from dpad.demo import END_ID, MASK_ID
from dpad.generation import presets
from tests.doubles.reference_decoder import ordinary, reference

BLOCK, THRESHOLD = 32, 0.9


@dataclass(frozen=True)
class Arm:
    """One way to decode; everything else is equal. `threshold` None: one token per step."""

    suffix: dpad.Suffix
    cache: str = "none"
    early_stop: bool = True
    threshold: float | None = THRESHOLD
    refresh: str = "full"

    def settings(self):
        return {
            "suffix": self.suffix.as_dict(),
            "cache": self.cache,
            "early_stop": self.early_stop,
            "threshold": self.threshold,
            "block_length": BLOCK,
            **({} if self.refresh == "full" else {"refresh": self.refresh}),
        }

    def rule(self, canvas):
        """Options of the commit rule."""
        if self.threshold is None:
            return {"steps": canvas}
        return {"confidence_threshold": self.threshold}


class Tiny:
    """A shipped model twice, patched and as it came, and its problems; `int8`: the patched one
    has 8-bit products.

    `ids` of a slice of problems is int64 ``[problems, 25]``; all prompts have one length.
    """

    def __init__(self, problems, seed, name="tiny_llada", int8=False):
        self.stock, _ = dpad.demo.load(name=name)
        self.patched, _ = dpad.demo.load(name=name)
        self.handle = dpad.patch(self.patched)
        if int8:
            dpad.quantize(self.patched)
        self.problems, self.seed = dpad.demo.problems(problems, seed), seed
        self.dropout = presets.defaults_for(self.patched, self.patched._dpad_handle.adapter)[
            "suffix"
        ]
        weights = (dpad.demo.model_folder(name) / "model.safetensors").read_bytes()
        self.fingerprint = hashlib.sha256(weights).hexdigest()[:16]

    def ids(self, rows):
        return torch.tensor([p.prompt_ids for p in self.problems[rows]])

    def right(self, rows, answers):
        """One bool per problem of the slice; answers int64 ``[problems, canvas]``."""
        return [p.check(a) for p, a in zip(self.problems[rows], answers, strict=True)]

    def solve(self, rows, canvas, arm, keys):
        """(`DPadOutput`, seconds) of dpad on a slice of problems."""
        ids = self.ids(rows)
        begun = time.perf_counter()
        out = self.patched.generate(
            ids,
            max_new_tokens=canvas,
            block_length=BLOCK,
            suffix=arm.suffix,
            cache=arm.cache,
            refresh=arm.refresh,
            early_stop=arm.early_stop,
            seed=self.seed,
            row_keys=keys,
            compatible="dpad-llada",  # the canvas as decoded, behind the end too
            return_dict_in_generate=True,
            **arm.rule(canvas),
        )
        return out, time.perf_counter() - begun

    def solve_by_reference(self, rows, canvas, arm, key):
        """(`Decoded`, seconds) of the reference algorithm with dpad's kept sets of one row key."""
        ids = self.ids(rows)
        kept = kept_sets(arm.suffix, self.seed, key, ids.shape[1], canvas)
        begun = time.perf_counter()
        out = reference(
            self.stock,
            ids,
            canvas,
            mask_id=MASK_ID,
            rule=("threshold", THRESHOLD),
            block_length=BLOCK,
            kept=kept,
            cache=arm.cache,
            end_ids=(END_ID,) if arm.early_stop else (),
        )
        return out, time.perf_counter() - begun

    def solve_ordinarily(self, rows, canvas):
        """(`Decoded`, seconds) of the unpatched model, one token per step."""
        ids = self.ids(rows)
        begun = time.perf_counter()
        model = _Aligned(self.stock) if self.handle.adapter.shift else self.stock
        out = ordinary(model, ids, canvas, mask_id=MASK_ID, block_length=BLOCK)
        return out, time.perf_counter() - begun


class _Aligned:
    """A model that predicts from the predecessor, as one whose row i predicts position i."""

    def __init__(self, model):
        self.model = model

    def __call__(self, ids):
        out = self.model(ids)
        out.logits = torch.cat((out.logits[:, :1], out.logits[:, :-1]), dim=1)
        return out


def kept_sets(suffix, seed, key, prompt, canvas, block_length=BLOCK):
    """What dpad keeps for a row key, as the reference takes it: block -> positions; None: all."""
    if suffix.kind == "all":
        return None
    total, sets = prompt + canvas, []
    for number, start in enumerate(range(prompt, total, block_length)):
        end = min(start + block_length, total)
        one = [torch.tensor([v]) for v in (seed, key, number, 0, end, total)]
        kept, count = ops.suffix_sample(*one, length=total - end, **suffix.parameters())
        sets.append(kept[0, : int(count)])
    return sets.__getitem__
