"""Times a cached denoising step and whole blocks at the released models' shapes, random weights.

    python -m benchmarks.gpu.step --json step.json

A step is everything between two looks at the status: gather, embedding, all layers, head,
`confidence`, `unmask_`. dpad's runs eagerly and as one replayed CUDA graph; the partner is
`benchmarks.gpu.plain_step`, the published algorithm in plain torch with the same decisions. Their
logits are compared first. A block is one pass over all slots and then the cached steps that its
tokens per step leave.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.gpu.describe import copy_bandwidth, describe
from benchmarks.gpu.plain_step import PlainStep
from dpad import ops
from dpad.decode.cache import KVCache
from dpad.decode.forward import logits_of_pass
from dpad.models.adapter import find_adapter
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM

BLOCK, MASK_ID = 32, 5
RELEASED = {
    "LLaDA-8B": {
        "d_model": 4096,
        "n_heads": 32,
        "n_kv_heads": 32,
        "n_layers": 32,
        "mlp_hidden_size": 12288,
        "vocab_size": 126464,
    },
    "Dream-7B": {
        "d_model": 3584,
        "n_heads": 28,
        "n_kv_heads": 4,
        "n_layers": 28,
        "mlp_hidden_size": 18944,
        "vocab_size": 152064,
    },
}
SMALL = {"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 96}
TINY = {"tiny": {**SMALL, "vocab_size": 300}}


def build(shape, device, dtype, length):
    """A model of that shape with random weights that keep activations at their size."""
    config = LLaDAConfig(
        **shape,
        embedding_size=shape["vocab_size"],
        max_sequence_length=length,
        mask_token_id=MASK_ID,
        eos_token_id=6,
        pad_token_id=6,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LLaDAModelLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data.normal_(0, weight.shape[1] ** -0.5)
    return model.to(device=device, dtype=dtype)


class Step:
    """One sequence per cache row, `keys` slots each; `rows` of them are computed, the last ones."""

    def __init__(self, adapter, cache, batch, keys, rows):
        self.adapter, self.cache = adapter, cache
        device = adapter.device
        index = lambda values: torch.tensor(values, dtype=torch.int64, device=device)  # noqa: E731
        slots = list(range(keys - rows, keys))
        sequence, block = list(range(batch)), list(range(keys - BLOCK, keys))
        self.layout = SimpleNamespace(
            slot=index(slots * batch),
            position=index(slots * batch),
            q_offsets=index([i * rows for i in range(batch + 1)]),
            n_keys=index([keys] * batch),
            logit_row=index([b * rows + r for b in sequence for r in range(rows - BLOCK, rows)]),
            l_offsets=index([i * BLOCK for i in range(batch + 1)]),
            canvas_row=index(sequence),
            cache_row=index(sequence),
            max_position=keys - 1,
        )
        self.target, self.length = index(block * batch), index([keys] * batch)
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(7, 290, (batch, keys), generator=generator)
        tokens[:, -BLOCK:] = MASK_ID
        self.start = tokens.to(device)
        self.canvas = self.start.clone()
        self.committed_at = torch.full_like(self.canvas, -1)
        self.committed = torch.zeros(batch, keys, dtype=torch.float64, device=device)
        self.masks_left, self.status, self.forward = (index([0] * batch) for _ in range(3))
        self.rng = index([[1, b, 0] for b in sequence])
        self.temperature = torch.zeros(batch, dtype=torch.float64, device=device)
        self.amount = torch.full((batch,), 0.9, dtype=torch.float64, device=device)
        self.quota, self.ids, self.none = index([BLOCK] * batch), index([MASK_ID]), index([])

    def logits(self):
        layout = self.layout
        tokens = ops.suffix_gather(
            self.canvas, layout.canvas_row, layout.q_offsets, layout.position, None, MASK_ID
        )
        return logits_of_pass(self.adapter, tokens, layout, self.cache)

    def __call__(self):
        self.canvas.copy_(self.start)  # every call decides the same
        scores = ops.confidence(
            self.logits(),
            self.layout.l_offsets,
            self.target,
            self.rng,
            self.temperature,
            self.ids,
            self.ids,
        )
        state = (self.canvas, self.committed_at, self.committed)
        counters = (self.masks_left, self.status, self.forward)
        rows = (self.layout.canvas_row, self.layout.l_offsets, self.target)
        chosen = (scores[0], scores[1], scores[1], self.amount, self.quota, self.length, self.none)
        rule = (ops.RULES["threshold"], True, MASK_ID, 6)
        ops.unmask_(*state, *counters, *rows, *chosen, *rule)
        return self.status

    def graph(self):
        """The step as a function that replays one CUDA graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self()
        return graph.replay


def seconds(function, repeats, cuda):
    """Median seconds of a call that ends with a look at the device, as a decoder's step does."""
    times = []
    for turn in range(repeats + 2):
        if cuda:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        function()
        if cuda:
            torch.cuda.synchronize()
        if turn >= 2:
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def compare(ours, plain, dtype):
    """None, or how far the partner's logits are from ours."""
    a, b = ours.logits().float(), plain.logits().float()
    size = b.abs().max().item()
    error = (a - b).abs().max().item()
    allowed = size * (1e-4 if dtype == torch.float32 else 0.1)
    return None if error <= allowed else f"logits differ by {error:.2g} of {size:.2g}"


def floor_bytes(adapter, batch, keys):
    """Bytes that a cached step has to read: every weight but the embedding, K and V once."""
    weights = sum(p.numel() * p.element_size() for p in adapter.model.parameters())
    embedding = adapter.weight.numel() * adapter.weight.element_size()
    kv = 2 * len(adapter.layers) * adapter.num_kv_heads * adapter.head_dim * keys * batch
    return weights - embedding + kv * adapter.dtype.itemsize


def measure(adapter, cache, batch, keys, repeats, bandwidth):
    """One cell: step eager, replayed, partner; blocks at 1, 2, 4 and 8 tokens per step."""
    cuda = adapter.device.type == "cuda"
    ours = Step(adapter, cache, batch, keys, BLOCK)
    whole = Step(adapter, cache, batch, keys, keys)
    plain = PlainStep(adapter, ours)
    whole()  # fills the cache
    plain.refresh()
    problem = compare(ours, plain, adapter.dtype)
    record = {"batch": batch, "keys": keys, "floor": floor_bytes(adapter, batch, keys) / bandwidth}
    if problem is not None:
        return {**record, "problem": problem}
    replay = ours.graph() if cuda else ours
    times = {
        "step, graph": seconds(replay, repeats, cuda),
        "step, eager": seconds(ours, repeats, cuda),
        "step, plain torch": seconds(plain, max(2, repeats // 4), cuda),
        "refresh": seconds(whole, max(2, repeats // 4), cuda),
        "refresh, plain torch": seconds(plain.refresh, max(2, repeats // 4), cuda),
    }
    record["seconds"] = times
    record["speed_up"] = times["step, plain torch"] / times["step, graph"]
    record["blocks"] = {}
    for per_step in (1, 2, 4, 8):
        more = BLOCK // per_step - 1

        def block(refresh, step, more=more):
            refresh()
            for _ in range(more):
                step()

        pair = [
            seconds(lambda r=r, s=s: block(r, s), 2, cuda)
            for r, s in ((whole, replay), (plain.refresh, plain))
        ]
        record["blocks"][per_step] = {"dpad": pair[0], "plain torch": pair[1]}
    return record


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.step")
    parser.add_argument("--json", type=Path, required=True, help="file of the figures")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the program")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the program")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--keys", type=int, nargs="+", default=[1024, 4096])
    options = parser.parse_args(arguments)
    if options.repeats < 2 or min(options.batches) < 1 or min(options.keys) < BLOCK:
        parser.error(f"--repeats from 2, --batches from 1, --keys from {BLOCK}")
    torch.set_grad_enabled(False)
    dtype = torch.float32 if options.small else torch.bfloat16
    bandwidth = copy_bandwidth(options.device, (1 << 20) if options.small else (1 << 30))
    models = {}
    for name, shape in (TINY if options.small else RELEASED).items():
        adapter = find_adapter(build(shape, options.device, dtype, max(options.keys)))
        cache = KVCache()
        cache.reserve(adapter, max(options.batches), max(options.keys))
        models[name] = []
        for keys in options.keys:
            for batch in options.batches:
                cell = measure(adapter, cache, batch, keys, options.repeats, bandwidth)
                models[name].append(cell)
                print(
                    name, json.dumps({k: v for k, v in cell.items() if k != "blocks"}), flush=True
                )
        del adapter, cache
        gc.collect()
    found = {"machine": describe(options.device), "bandwidth": bandwidth, "models": models}
    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if any("problem" in cell for cells in models.values() for cell in cells) else 0


if __name__ == "__main__":
    sys.exit(main())
