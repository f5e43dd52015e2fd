"""Times whole decodings through the public interface, random weights of the released shapes.

    python -m benchmarks.gpu.generate --json generate.json

`dpad.patch(model)` and `model.generate` with a fixed number of steps per block, a dual cache, the
whole suffix and no early stop, so that both sides compute the same rows, against the published
algorithm in plain torch (`benchmarks.gpu.plain`) and the floor of the same passes. What counts as
equal output is said in `benchmarks.gpu.follow`. `throughput` is dpad alone at several batch sizes:

    python -m benchmarks.gpu.generate --throughput --json throughput.json
"""

import gc
import sys

import torch

import dpad
from benchmarks.gpu import follow, models, plain, results
from benchmarks.gpu.floor import pass_floor
from benchmarks.gpu.models import BLOCK
from benchmarks.gpu.timing import seconds

NEW = 2 * BLOCK  # generated tokens
KEYS, PER_STEP, BATCHES = (1024, 4096), (8, 4, 2, 1), (1, 4, 16)
SMALL_KEYS, SMALL_PER_STEP, SMALL_BATCHES = (96,), (8, 1), (1, 2)


def graphs(handle):
    """What the handle's report says of CUDA graphs."""
    return [text.strip() for text in repr(handle).splitlines() if "graph" in text.lower()]


def floor(shape, limits, batch, keys, per_step):
    """Seconds of all passes of a decoding."""
    refresh = pass_floor(shape, limits, [(batch, keys, keys)], batch * BLOCK)
    step = pass_floor(shape, limits, [(batch, BLOCK, keys)], batch * BLOCK)
    return NEW // BLOCK * (refresh + (BLOCK // per_step - 1) * step)


def ours(model, batch, keys, per_step, repeats):
    """(seconds, output) of `generate`; the first call, which may capture graphs, is discarded."""
    device = next(model.parameters()).device
    ids, given = models.prompt(batch, keys - NEW, device), follow.options(keys, NEW, per_step)
    kept = []
    took = seconds(lambda: kept.append(model.generate(ids, **given)), repeats, device, warm_up=1)
    return took, kept[-1]


def cell(model, handle, shape, limits, batch, keys, per_step, partner=True):
    """One decoding timed, against the partner if wanted."""
    device = handle.adapter.device
    took, out = ours(model, batch, keys, per_step, 3)
    record = {
        "batch": batch,
        "keys": keys,
        "per_step": per_step,
        "new_tokens": NEW,
        "forwards": int(out.forwards[0]),
        "floor": floor(shape, limits, batch, keys, per_step),
        "seconds": {"dpad": took},
        "tokens_per_second": batch * NEW / took,
        "graphs": graphs(handle),
    }
    wanted = NEW // per_step
    if record["forwards"] != wanted:
        record["problem"] = f"{record['forwards']} forwards, expected {wanted}"
    if not partner:
        return record
    ids, kept = models.prompt(batch, keys - NEW, device), []
    run = lambda: kept.append(plain.decode(handle.adapter, ids, NEW, per_step))  # noqa: E731
    # Of the partner's warm-up the shortest decoding is enough, and comes first.
    record["seconds"]["plain torch"] = seconds(run, 2, device, warm_up=int(per_step == 8))
    record["speed_up"] = record["seconds"]["plain torch"] / took
    record["same_tokens"] = (kept[-1] == out.sequences)[:, -NEW:].double().mean().item()
    return record


def line(record):
    """A record in words."""
    if "seconds" not in record:
        return f"{record['name']}: {record}"
    text = f"{record['name']}: {record['tokens_per_second']:.0f} tokens/s"
    text += f", {record['floor'] / record['seconds']['dpad']:.0%} of the floor's speed"
    return text + (f", {record['speed_up']:.2f}x plain torch" if "speed_up" in record else "")


def end_to_end(found, name, shape, model, handle, small):
    """All cells of a model; `found` gets their records."""
    keys = SMALL_KEYS if small else KEYS
    checked = found.case(
        f"{name}, decisions followed at {keys[0]} keys, 8 tokens per step",
        lambda: {"model": name, "kind": "check", **follow.followed(model, handle, keys[0], 8)},
    )
    for n in keys:
        for per_step in SMALL_PER_STEP if small else PER_STEP:

            def one(n=n, per_step=per_step):
                figures = cell(model, handle, shape, found.limits, 1, n, per_step)
                if "problem" in checked:
                    figures.setdefault("problem", f"check: {checked['problem']}")
                return {"model": name, "kind": "generate", **figures}

            found.case(f"{name}, {n} keys, {per_step} tokens per step", one, least=15)


def throughput(found, name, shape, model, handle, small):
    """dpad alone at several batch sizes."""
    keys = (SMALL_KEYS if small else KEYS)[0]
    for per_step in (1, 4):
        for batch in SMALL_BATCHES if small else BATCHES:

            def one(batch=batch, per_step=per_step):
                figures = cell(model, handle, shape, found.limits, batch, keys, per_step, False)
                return {"model": name, "kind": "throughput", **figures}

            found.case(f"{name}, batch {batch}, {per_step} tokens per step", one, least=10)


def main(arguments=None):
    options = results.parser("generate", __doc__)
    options.add_argument("--models", nargs="+", choices=list(models.RELEASED), metavar="NAME")
    options.add_argument("--throughput", action="store_true", help="dpad alone, several batches")
    options = results.parse(options, arguments)
    found = results.Results(options, line)
    measure = throughput if options.throughput else end_to_end
    with torch.no_grad():
        if not options.throughput:
            check = lambda: {"kind": "check", **follow.equal_tokens(options.device)}  # noqa: E731
            found.case("equal tokens in float32 at a small shape", check)
        for name, shape in models.shapes(options.small, options.models).items():
            dtype = models.dtype_of(options.small)
            make = lambda s=shape, d=dtype: models.build(s, options.device, d, max(KEYS))  # noqa: E731
            model = found.made(f"{name}, model", make)
            if model is not None:
                with dpad.patch(model) as handle:
                    measure(found, name, shape, model, handle, options.small)
                del handle
            del model, make
            gc.collect()
    return found.status


if __name__ == "__main__":
    sys.exit(main())
