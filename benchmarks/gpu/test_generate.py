"""Times whole decodings through the public interface, random weights of the released shapes.

`dpad.patch(model)` and `model.generate` with a fixed number of steps per block, a dual cache, the
whole suffix and no early stop, so that both sides compute the same rows, against the published
algorithm in plain torch (`benchmarks.gpu.plain`) and the floor of the same passes. Outputs are
compared token by token only in float32 at a small shape; at the full shape, where rounding decides
ties, the plain decoder follows ours (`tests.doubles.follower`).
"""

import pytest
import torch

import dpad
from benchmarks.gpu import models, plain
from benchmarks.gpu.floor import pass_floor
from benchmarks.gpu.models import BLOCK
from benchmarks.timing import seconds
from tests.doubles.follower import Follower
from tests.doubles.plain_llada import PlainLLaDA
from tests.doubles.reference_decoder import choose

measured = pytest.mark.measured
REPEATS = 3
NEW, WINDOW = 2 * BLOCK, 64  # generated tokens; suffix of a long answer


def options(new_tokens, per_step, **more):
    """Of `generate`: `per_step` tokens of every block in a step, the suffix whole, a dual cache;
    and what differs from that.
    """
    return {
        "max_new_tokens": new_tokens,
        "block_length": BLOCK,
        "steps": new_tokens // per_step,
        "suffix": dpad.Suffix("all"),
        "cache": "dual",
        "early_stop": False,
        "seed": 0,
        "return_dict_in_generate": True,
        **more,
    }


def graphs(handle):
    """What the handle's report says of CUDA graphs."""
    return [text.strip() for text in repr(handle).splitlines() if "graph" in text.lower()]


def floor(shape, limits, batch, keys, per_step, new=NEW, window=None, back=False):
    """Seconds of all passes of a decoding whose suffix has at most `window` positions, None: all;
    `back`: but for the first, refreshes begin at the block before.
    """
    total = 0.0
    for start in range(keys - new, keys, BLOCK):
        end = keys if window is None else min(start + BLOCK + window, keys)
        first = start - BLOCK if back and start > keys - new else 0
        for count, rows in ((1, end - first), (BLOCK // per_step - 1, BLOCK)):
            total += count * pass_floor(shape, limits, [(batch, rows, end)], batch * BLOCK)
    return total


@pytest.fixture
def decoded(record, network, handle, figures, repeats):
    """A function that times `generate` and gives ids and output."""

    def decode(batch, keys, per_step, new=NEW, **more):
        ids = models.prompt(batch, keys - new, figures.device)
        given, kept = options(new, per_step, **more), []
        run = lambda: kept.append(network.generate(ids, **given))  # noqa: E731
        # The first call, which may capture graphs, is discarded.
        took = seconds(run, repeats, figures.device, warm_up=1)
        forwards, wanted = int(kept[-1].forwards[0]), new // per_step
        record.update(new_tokens=new, forwards=forwards, graphs=graphs(handle))
        record.update(seconds={"dpad": took}, tokens_per_second=batch * new / took)
        if forwards != wanted:
            record["problem"] = f"{forwards} forwards, expected {wanted}"
        return ids, kept[-1].sequences

    return decode


@measured("equal tokens in float32 at a small shape")
def test_equal_tokens(record, figures, batch=2, length=40):
    """`generate`, the plain decoder and the tests' reference write one text."""
    shape = models.shapes(small=True)["tiny"]
    model = models.build(shape, figures.device, torch.float32, length + NEW)
    ids, differ = models.prompt(batch, length, figures.device), {}
    with dpad.patch(model):
        for per_step in (1, 2, 4, 8):
            out = model.generate(ids, **options(NEW, per_step)).sequences
            for name, kind in (("plain torch", ()), ("reference", (PlainLLaDA, choose))):
                tokens = plain.decode(model, ids, NEW, per_step, *kind)
                differ[f"{name}, {per_step} tokens per step"] = int((tokens != out).sum())
    record.update(tokens=4 * batch * NEW, different=differ)
    if any(differ.values()):
        record["problem"] = f"tokens differ: {', '.join(name for name in differ if differ[name])}"


@pytest.fixture(scope="module")
def checked(network, handle, figures, per_step=8):
    """A record of the plain decoder on dpad's path."""
    length = (96 if figures.small else 1024) - NEW
    ids = models.prompt(1, length, figures.device)
    out = network.generate(ids, trace=True, **options(NEW, per_step))
    follower = Follower(out.trace, length)
    canvas = plain.decode(network, ids, NEW, per_step, choose=follower)
    same = torch.equal(canvas, out.sequences)
    other = {"problem": "the trace does not lead to the tokens that were returned"}
    return follower.record() | ({} if same else other)


@measured("{model}, decisions followed at {keys} keys, 8 tokens per step", "keys", (1024,), (96,))
def test_followed(record, checked, keys):
    record.update(checked)


@measured(
    "{model}, {keys} keys, {per_step} tokens per step",
    "batch, keys, per_step",
    [(1, keys, per_step) for keys in (1024, 4096) for per_step in (8, 4, 2, 1)],
    [(1, 96, 8), (1, 96, 1)],
    least=15,
)
def test_generate(record, figures, checked, decoded, network, shape, batch, keys, per_step):
    ids, tokens = decoded(batch, keys, per_step)
    record["floor"] = floor(shape, figures.limits, batch, keys, per_step)
    kept = []
    run = lambda: kept.append(plain.decode(network, ids, NEW, per_step))  # noqa: E731
    # Of the partner's warm-up the shortest decoding is enough, and comes first.
    took = record["seconds"]["plain torch"] = seconds(run, 2, figures.device, int(per_step == 8))
    record["speed_up"] = took / record["seconds"]["dpad"]
    record["same_tokens"] = (kept[-1] == tokens)[:, -NEW:].double().mean().item()
    if "problem" in checked:
        record.setdefault("problem", f"check: {checked['problem']}")


@measured(
    "{model}, batch {batch}, {per_step} tokens per step",
    "batch, keys, per_step",
    [(batch, 1024, per_step) for per_step in (1, 4) for batch in (1, 4, 16)],
    [(batch, 96, per_step) for per_step in (1, 4) for batch in (1, 2)],
    models=1,
)
def test_throughput(record, decoded, shape, limits, batch, keys, per_step):
    """dpad alone at several batch sizes."""
    decoded(batch, keys, per_step)
    record["floor"] = floor(shape, limits, batch, keys, per_step)


@measured(
    "{model}, {new} tokens of {keys}, {refresh} refreshes",
    "keys, per_step, new, refresh",
    [(2048, 4, 1024, refresh) for refresh in ("full", "recent")],
    [(96, 4, 64, refresh) for refresh in ("full", "recent")],
    least=20,
    models=1,
)
def test_throughput_of_long_answers(record, decoded, shape, limits, keys, per_step, new, refresh):
    """dpad alone, with a short suffix: by refreshes of everything, or from the block before on."""
    decoded(1, keys, per_step, new, refresh=refresh, suffix=dpad.Suffix("window", window=WINDOW))
    sizes, back = (keys, per_step, new, WINDOW), refresh == "recent"
    record["floor"] = floor(shape, limits, 1, *sizes, back=back)
