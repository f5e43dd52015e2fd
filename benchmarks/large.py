"""Cache and kernel factors where they are visible: a random LLaDA with the released vocabulary."""

import time
from statistics import median

import torch

import dpad
from benchmarks import random_models
from benchmarks.cells import CACHES, FULL, Cell
from benchmarks.measure import kept_sets
from tests.doubles.reference_decoder import reference

# 6 layers, width 256, the released vocabulary: the head is most of a full-canvas step.
CONFIG = {
    "d_model": 256,
    "n_heads": 8,
    "n_kv_heads": 8,
    "n_layers": 6,
    "mlp_hidden_size": 768,
    "max_sequence_length": 1024,
}
PROMPT, BLOCK, PASSES = 64, 32, 4  # PASSES: per block, with a fixed quota
DROPOUT = dpad.Suffix("gaussian", window=128, decay=3.0, scale=1.6, near=16)


def _by_dpad(model, ids, canvas, suffix, cache):
    out = model.generate(
        ids,
        max_new_tokens=canvas,
        block_length=BLOCK,
        steps=PASSES * (canvas // BLOCK),
        suffix=suffix,
        cache=cache,
        early_stop=False,
        seed=0,
        compatible="dpad-llada",
        trace=True,
    )
    before, seconds = 0.0, {"refresh": [], "step": []}
    for event in out.trace.events:
        kind = "step" if event["kept"] is None else "refresh"
        seconds[kind].append(event["time"] - before)
        before = event["time"]
    return out.sequences, seconds


def _by_reference(model, ids, canvas, suffix, cache, head):
    out = reference(
        model,
        ids,
        canvas,
        mask_id=model.config.mask_token_id,
        rule=("quota", PASSES * (canvas // BLOCK)),
        block_length=BLOCK,
        kept=kept_sets(suffix, 0, 0, ids.shape[1], canvas, BLOCK),
        cache=cache,
        head=head,
    )
    seconds = {"refresh": [], "step": []}
    for first, _, spent in out.passes:
        seconds["refresh" if first else "step"].append(spent)
    return out.tokens, seconds


def measure(model, canvas, suffix, cache, rounds, step):
    """dpad and the reference in turns, batch 1; medians of its passes and the whole run."""
    generator = torch.Generator().manual_seed(1)
    found = {n: {"refresh": [], "step": [], "total": []} for n in ("dpad", "all", "block")}
    same = 0
    with dpad.patch(model):
        _by_dpad(model, torch.zeros(1, PROMPT, dtype=torch.int64), BLOCK, suffix, cache)
        for number in range(rounds):
            ids = torch.randint(0, 126000, (1, PROMPT), generator=generator)
            tokens = {}
            names = list(found)
            for name in names if number % 2 else names[::-1]:
                begun = time.perf_counter()
                if name == "dpad":
                    tokens[name], seconds = _by_dpad(model, ids, canvas, suffix, cache)
                else:
                    tokens[name], seconds = _by_reference(model, ids, canvas, suffix, cache, name)
                found[name]["total"].append(time.perf_counter() - begun)
                for kind, values in seconds.items():
                    found[name][kind].append(median(values))
                step()
            same += tokens["dpad"].equal(tokens["all"]) and tokens["dpad"].equal(tokens["block"])
    return {"seconds": found, "identical": same, "rows": rounds}


def cells(options):
    """Cells of every cache, with the full and the thinned suffix."""
    built = []

    def run(suffix, cache, step):
        if not built:
            built.append(random_models.build(CONFIG))
        return measure(built[0], options.large_canvas, suffix, cache, options.large_rounds, step)

    for kind, suffix in (("full", FULL), ("dropout", DROPOUT)):
        for cache in CACHES:
            settings = {
                "kind": "large",
                "config": CONFIG,
                "prompt": PROMPT,
                "canvas": options.large_canvas,
                "block_length": BLOCK,
                "passes_per_block": PASSES,
                "rounds": options.large_rounds,
                "suffix": suffix.as_dict(),
                "cache": cache,
            }
            yield Cell(
                f"large-{kind}-{cache}",
                settings,
                3 * options.large_rounds,
                lambda step, suffix=suffix, cache=cache: run(suffix, cache, step),
            )
