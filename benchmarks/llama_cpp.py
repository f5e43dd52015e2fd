"""llama.cpp's formats and dpad's on the same LLaDA: one step, and whole decodings, in turns.

    CMAKE_ARGS="-DLLAVA_BUILD=OFF" pip install --target FOLDER llama-cpp-python==0.3.36 gguf
    python -m benchmarks.llama_cpp --peer FOLDER [--threads 2] [--rounds 5]

pip compiles llama.cpp from its sources, for this machine: about ten minutes of one core. The model
is the random one of `benchmarks.quantize`, written as GGUF. Before anything is timed, the most
likely tokens of one forward are compared. llama.cpp has no cache for such models: it computes the
whole canvas in every step, and the tokens are chosen here. dpad does the same work in one way, and
leaves out part of the suffix and caches in others.

Results go to benchmarks/results/<machine>/llama-cpp.json and are printed.
"""

import argparse
import tempfile
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch

import dpad
from benchmarks import machine
from benchmarks.llama_cpp_peer import FORMATS, LlamaCpp, bindings, convert, write
from benchmarks.quantize import BLOCK, COMMITS, RESULTS, variants
from benchmarks.random_models import MID, mid_model
from benchmarks.report import table, times
from benchmarks.store import write_json
from benchmarks.timing import Timer

PROMPT, MASK = 32, MID["mask_token_id"]
KINDS = ("float32", "bfloat16", "int8", "int8 + bfloat16")
SAME, DROPOUT = "same work", {"suffix": dpad.Suffix("gaussian")}
# Each adds one thing to the one before.
WAYS = {
    SAME: {"cache": "none", "suffix": dpad.Suffix("all")},
    "+ suffix dropout": {"cache": "none", **DROPOUT},
    "+ dual cache": {"cache": "dual", **DROPOUT},
}


def decode(forward, prompt, new_tokens):
    """Tokens ``[rows]``: in each step the whole canvas is computed, and the `COMMITS` most certain
    tokens of the block are taken. The model never predicts the mask.
    """
    ids = np.concatenate((prompt, np.full(new_tokens, MASK)))
    for start in range(len(prompt), len(ids), BLOCK):
        block = ids[start : start + BLOCK]
        while (masked := np.flatnonzero(block == MASK)).size:
            logits = forward(ids)[start + masked]
            odds = np.exp(logits - logits.max(1, keepdims=True)).sum(1)  # 1 / probability
            best = np.argsort(odds, kind="stable")[:COMMITS]
            block[masked[best]] = logits[best].argmax(1)
    return ids


def half_masked(rows):
    """Ids int64 ``[rows]``, every other one masked."""
    ids = np.random.default_rng(rows).integers(0, MASK - 1, rows)
    ids[::2] = MASK
    return ids


def step(model, ids):
    """Logits ``[rows, vocabulary]`` of a patched model, as `LlamaCpp` gives them."""
    with torch.inference_mode():
        return model(torch.from_numpy(ids)[None]).logits[0].float().numpy()


def generate(model, prompt, settings):
    """Tokens of a patched model, as `decode` gives them."""
    return model.generate(torch.from_numpy(prompt)[None], **settings)[0].numpy()


def steps(peers, models, rows):
    """Name -> function that computes a whole canvas once."""
    ids = half_masked(rows)
    found = {name: partial(peer, ids) for name, peer in peers.items()}
    return found | {name: partial(step, model, ids) for name, model in models.items()}


def decodings(peers, models, new_tokens):
    """Name -> function that decodes a whole answer; dpad's are named by kind and way."""
    prompt = np.random.default_rng(0).integers(0, MASK - 1, PROMPT)
    settings = {"max_new_tokens": new_tokens, "steps": new_tokens // COMMITS, "seed": 0}
    settings |= {"block_length": BLOCK, "early_stop": False}
    found = {name: partial(decode, peer, prompt, new_tokens) for name, peer in peers.items()}
    for (name, model), way in product(models.items(), WAYS):
        found[f"{name}, {way}"] = partial(generate, model, prompt, settings | WAYS[way])
    return found


def equal(outputs, reference):
    """How many values of each output are those of the reference."""
    want = outputs[reference]
    return {"of": len(want)} | {name: int((o == want).sum()) for name, o in outputs.items()}


def measure(peers, models, canvases, new_tokens, rounds):
    """Seconds of every round, and how many tokens are those of dpad in float32.

    Args:
        peers: format -> function of a canvas that gives logits, as `LlamaCpp`.
        models: kind -> patched model; "float32" is among them.
        canvases: whose single steps are timed.
        new_tokens: of whole decodings.
    """
    turns = steps(peers, models, PROMPT + new_tokens)
    argmax = equal({name: call().argmax(1) for name, call in turns.items()}, "float32")
    print(f"argmax equal to float32: {argmax}", flush=True)
    if argmax.get("F32", argmax["of"]) < 0.98 * argmax["of"]:
        raise RuntimeError("llama.cpp computes something else: no time would mean anything")
    timer = Timer("cpu")
    found = {"argmax equal to float32": argmax, "steps": {}}
    for canvas in canvases:
        turns = steps(peers, models, canvas)
        found["steps"][canvas] = timer.turns(turns, rounds, warm_up=1)
    turns = decodings(peers, models, new_tokens)
    answers = {name: call()[PROMPT:] for name, call in turns.items()}
    found["tokens equal to float32"] = equal(answers, f"float32, {SAME}")
    found["decodings"] = timer.turns(turns, rounds, warm_up=0)
    return found


def report(found, peers, kinds):
    """The tables: llama.cpp's seconds by dpad's, and what each thing of dpad's is worth."""
    for canvas, seconds in found["steps"].items():
        yield beside(f"a step of {canvas}", seconds, peers, {k: k for k in kinds})
    seconds = found["decodings"]
    for way in WAYS:
        yield beside(f"decoding, {way}", seconds, peers, {k: f"{k}, {way}" for k in kinds})
    rows = [
        [way, *(times(seconds[f"{k}, {before}"], seconds[f"{k}, {way}"]) for k in kinds)]
        for before, way in pairwise(WAYS)
    ]
    yield table(["times as fast", *kinds], rows)


def beside(title, seconds, peers, ours):
    """One table; the mean seconds stand at the names."""

    def named(name, key):
        return f"{name}: {sum(seconds[key]) / len(seconds[key]):.3g} s"

    rows = [
        [named(peer, peer), *(times(seconds[peer], seconds[key]) for key in ours.values())]
        for peer in peers
    ]
    return table([title, *(named(kind, key) for kind, key in ours.items())], rows)


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, required=True, help="folder of llama.cpp's bindings")
    parser.add_argument("--threads", type=int, default=1, help="of either side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--canvases", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--new-tokens", type=int, default=224, help="of whole decodings")
    parser.add_argument("--width", type=int, default=MID["d_model"], help="a multiple of 256")
    parser.add_argument("--no-save", action="store_true")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    api, gguf = bindings(options.peer)
    torch.set_num_threads(options.threads)
    models = variants(lambda: mid_model(width=options.width))
    models = {kind: models[kind] for kind in KINDS}
    rows = max(*options.canvases, PROMPT + options.new_tokens)
    peers, sizes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "F32.gguf"
        write(models["float32"], source, gguf)
        for name, number in FORMATS.items():
            path = Path(folder) / f"{name}.gguf"
            if path != source:
                convert(api, source, path, number)
            peers[name] = LlamaCpp(api, path, rows, options.threads)
            sizes[name] = path.stat().st_size
        for model in models.values():
            dpad.patch(model)
        found = measure(peers, models, options.canvases, options.new_tokens, options.rounds)
    here = machine.describe()
    build = {"llama-cpp-python": api.__version__, "built": api.llama_print_system_info().decode()}
    found = {**build, "bytes": sizes, **found, "machine": here}
    print(*report(found, peers, models), sep="\n\n")
    if not options.no_save:
        write_json(RESULTS / machine.tag(here) / "llama-cpp.json", found)


if __name__ == "__main__":
    main()
