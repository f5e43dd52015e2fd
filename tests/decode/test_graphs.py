"""Captured steps: buckets, padding, and that replays decide what eager steps decide.

On the CPU `RecordedCalls` stands in for a CUDA graph: it runs the recorded operators on the
recorded tensors. Where there is a GPU, graphs are captured.
"""

import gc
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from dpad.decode import commit, graphs, phases
from dpad.decode.captured_step import Bucket, sequences_of
from dpad.decode.device import CudaGraph
from dpad.decode.lane import Hooks
from dpad.decode.loop import decode
from dpad.decode.plan import Planner, draw_suffix
from dpad.decode.suffix import Suffix
from dpad.decode.workspace import Workspace, Workspaces
from tests.decode.common import MASK_ID, adapter, sequence, sequences
from tests.doubles.pretended_cuda import pretended_cuda
from tests.doubles.recorded_calls import RecordedCalls

PROMPTS = ([1, 2, 3], [4, 5, 6, 7, 8], [9], [], [3] * 11)
NEW, WIDTH = 28, 8  # the last block is shorter
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
THIN = Suffix("gaussian", window=16, decay=3.0, scale=2.0, near=1)


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    monkeypatch.setitem(graphs.CAPTURES, "cpu", RecordedCalls)


def run(model, workspace, prompts=PROMPTS, new=NEW, **options):
    """The sequences, decoded, and what it took."""
    keys = [10 + row for row in range(len(prompts))]
    live = sequences(prompts, new, WIDTH, keys, **{"suffix": THIN, "cache": "dual", **options})
    return live, decode(model, workspace, live)


def compare(model, workspace=None, **options):
    """Runs captured and eagerly; the captured run, after both were found equal."""
    workspace = Workspace() if workspace is None else workspace
    captured, took = run(model, workspace, **options)
    eager, by_hand = run(model, Workspace(capture=False), **options)
    assert workspace.graphs.why_not is None and by_hand.replayed == 0
    for q, other in zip(captured, eager, strict=True):
        assert torch.equal(q.result.tokens, other.result.tokens)
        assert torch.equal(q.result.committed_at, other.result.committed_at)
        assert torch.allclose(q.result.committed, other.result.committed, atol=1e-5)
        assert (q.reason, q.forwards) == (other.reason, other.forwards)
    assert took.positions == by_hand.positions
    return captured, took


RULES = {
    "threshold": commit.threshold(0.5),
    "factor": commit.factor(1.0),
    "one each": commit.fixed_quota(),
    "linear": commit.fixed_quota(11),
    "dream": commit.fixed_quota(12, score="negative_entropy", schedule="dream"),
    "drawn order": commit.fixed_quota(12, order_temperature=0.5),
    "carried": commit.threshold(0.9, steps=16),
    "origin": commit.independent(16),
    "entropy bound": commit.entropy_bound(2.0),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("rule", RULES)
def test_replays_decide_what_eager_steps_decide(rule, cache, device):
    lengths = {"new": 32} if rule == "carried" else {}
    live, took = compare(adapter(device), rule=RULES[rule], cache=cache, **lengths)
    assert took.replayed == took.passes - len(refreshes(live)) > 0


def refreshes(live, which=lambda block: True):
    """Steps that began one of `which` blocks: sequences that begin one share a pass."""
    return {
        step
        for q in live
        for step, block in enumerate(q.forwards)
        if (step == 0 or q.forwards[step - 1] != block) and which(block)
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.8, "seed": 3},
        {"temperature": 0.8, "top_p": 0.9, "top_k": 20},
        {"tempered": True, "temperature": 0.5, "rule": commit.fixed_quota(14)},
        {"guidance": 1.5},
        {"guidance": 0.5, "temperature": 0.7},
        {"random_order": True, "rule": commit.fixed_quota(14)},
        {"suffix": Suffix("all"), "early_stop": False},
        {"suffix": Suffix("none")},
        {"exclude": (MASK_ID,), "round_scores": True},
        {"prompts": PROMPTS[:1]},
        {"prompts": PROMPTS * 4},
    ],
    ids=lambda options: "-".join(options),
)
def test_settings(options, cache, device):
    assert compare(adapter(device), cache=cache, **options)[1].replayed > 0


@pytest.mark.parametrize("device", DEVICES)
def test_models_with_a_shift(monkeypatch, device):
    model = adapter(device)
    monkeypatch.setattr(model, "shift", 1)
    for cache in ("prefix", "dual"):
        assert compare(model, cache=cache)[1].replayed > 0
        assert compare(model, cache=cache, guidance=1.0)[1].replayed > 0
        assert compare(model, cache=cache, published_shift=True)[1].replayed > 0
        _, took = compare(model, cache=cache, published_shift=True, look_back=1)
        assert took.passes - took.replayed == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guidance": 0.5, "temperature": 0.7},
        {"suffix": Suffix("all"), "early_stop": False},
        {"suffix": Suffix("none"), "look_back": 2},
        {"refresh_period": 3, "early_stop": False},
        {"prompts": PROMPTS[:1]},
        {"prompts": PROMPTS * 4, "rule": commit.factor(1.0)},
    ],
    ids=lambda options: "-".join(options),
)
def test_refreshes_that_look_back_are_replayed(options, cache, device):
    """Only passes that compute everything run eagerly; the others share a pass with cached ones."""
    live, took = compare(adapter(device), cache=cache, **{"look_back": 1, **options})
    period = options.get("refresh_period")
    whole = {0} if period is None else refreshes(live, lambda block: block % period == 0)
    assert took.passes - took.replayed == len(whole)
    if period is None:
        assert took.passes == took.steps


def test_long_refreshes_run_eagerly(monkeypatch):
    """Where torch's attention on slices of exact length is faster."""
    monkeypatch.setattr(phases, "WIDE_ROWS", WIDTH)
    live, took = compare(adapter(), look_back=1)
    assert took.passes - took.replayed == len(refreshes(live))


def test_few_graphs_serve_all_blocks():
    model, workspace = adapter(), Workspace()
    once = {"prompts": PROMPTS[:1], "new": 80, "look_back": 1, "early_stop": False}
    compare(model, workspace, **once)
    assert len(workspace.graphs) == 2  # a cached step, and a refresh with a thin suffix
    compare(model, workspace, **once, suffix=Suffix("all"))
    assert len(workspace.graphs) <= 7  # the suffix goes from 64 positions to none


def test_graphs_serve_later_calls():
    """Other prompts, lengths, seeds, thresholds and temperatures: the same graphs."""
    model, workspace = adapter(), Workspace()
    workspace.reserve(model, 5, 60, 300)
    compare(model, workspace, temperature=0.5)
    held = len(workspace.graphs)
    layers = workspace.arena.layers
    compare(model, workspace, temperature=0.9, seed=5, rule=commit.threshold(0.7))
    compare(model, workspace, prompts=[[7] * 20, [8], [9] * 3, [1], [2]], temperature=0.5)
    assert workspace.arena.layers is layers
    assert len(workspace.graphs) <= held + 2  # batches shrink along other sizes
    before = len(workspace.graphs)
    compare(model, workspace, rule=commit.fixed_quota(14))
    assert len(workspace.graphs) > before


def test_a_run_keeps_its_result_when_the_next_one_overwrites_the_canvas():
    model, workspace = adapter(), Workspace()
    first, _ = run(model, workspace)
    kept = [q.result.tokens.clone() for q in first]
    run(model, workspace, prompts=[[1] * 9] * 5)
    assert all(torch.equal(q.result.tokens, old) for q, old in zip(first, kept, strict=True))


def test_larger_requests_capture_anew():
    model, workspace = adapter(), Workspace()
    compare(model, workspace, prompts=PROMPTS[:2])
    address = workspace.arena.layers[0][0].data_ptr()
    compare(model, workspace)
    assert workspace.arena.layers[0][0].data_ptr() != address
    compare(model, workspace, prompts=PROMPTS[:2], new=60)
    compare(model, workspace)


def test_weights_that_moved_are_noticed():
    model, workspace = adapter(), Workspace()
    compare(model, workspace, prompts=PROMPTS[:1])
    held = len(workspace.graphs)
    down = model.layers[0].mlp.down_proj.module
    down.weight.data.mul_(1.1)  # in place: graphs read the new values
    compare(model, workspace, prompts=PROMPTS[:1])
    assert len(workspace.graphs) == held
    down.weight = torch.nn.Parameter(down.weight.detach() * 2)
    compare(model, workspace, prompts=PROMPTS[:1])
    assert len(workspace.graphs) == held


def test_what_stands_in_the_way_is_named():
    model = adapter()
    assert graphs.obstacle(model) is None
    look = {"prompt": [1], "new": 8, "cache": "dual"}
    assert sequence(**look).obstacle() is None
    assert "none" in sequence(**{**look, "cache": "none"}).obstacle()
    for name in ("noise", "order", "process_logits", "whole_logits"):
        hooks = Hooks(**{name: lambda *_: None})
        assert name in sequence(**look, hooks=hooks).obstacle()
    for name in ("kept", "on_step", "on_block", "on_begin"):
        assert sequence(**look, hooks=Hooks(**{name: lambda *_: None})).obstacle() is None
    hook = model.layers[1].mlp.up_proj.module.register_forward_hook(lambda *_: None)
    assert "up_proj" in graphs.obstacle(model)
    hook.remove()
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert "hooks" in graphs.obstacle(model)
    hook.remove()
    q = model.layers[0].attention.q
    q.parent.q_proj = torch.nn.Sequential(q.module)
    assert "blocks.0.q_proj" in graphs.obstacle(model)


def test_a_failed_capture_goes_on_eagerly_with_the_reason(monkeypatch):
    class Refuses(RecordedCalls):
        def __init__(self, function, pool):
            function()
            raise RuntimeError("no graphs today")

    monkeypatch.setitem(graphs.CAPTURES, "cpu", Refuses)
    model, workspace = adapter(), Workspace()
    found, took = run(model, workspace)
    assert "no graphs today" in workspace.graphs.why_not and took.replayed == 0
    for q, other in zip(found, run(model, Workspace(capture=False))[0], strict=True):
        assert torch.equal(q.result.tokens, other.result.tokens)


def test_steps_that_look_at_values_are_refused_by_the_recorder():
    x = torch.tensor([1, 0, 2])
    for reads in (
        lambda: x.sum().item(),
        lambda: x.nonzero(),
        lambda: torch.tensor([1, 2]),
        lambda: x[x > 0],
        lambda: torch.repeat_interleave(x, x),
    ):
        with pytest.raises(RuntimeError, match="not permitted"):
            RecordedCalls(reads)


def test_callbacks_see_every_step_of_a_captured_run():
    def watched(workspace):
        seen = []
        on_step = lambda step: seen.append((step.token, step.probability, step.targets))  # noqa: E731
        return run(adapter(), workspace, prompts=PROMPTS[:1], on_step=on_step)[1], seen

    found, captured = watched(Workspace())
    _, eager = watched(Workspace(capture=False))
    assert found.replayed > 0 and len(captured) == len(eager)
    for (token, probability, targets), (wanted, exact, other) in zip(captured, eager, strict=True):
        assert torch.equal(token, wanted) and torch.allclose(probability, exact, atol=1e-5)
        for name, kept in vars(targets).items():  # what a callback keeps stays as it was
            assert torch.equal(kept, getattr(other, name)), name


@pytest.mark.parametrize("watched", (False, True))
def test_only_watched_steps_keep_their_logits(monkeypatch, watched):
    """Else every graph would hold memory for logits of its own."""
    seen = []

    class Looks(RecordedCalls):
        def __init__(self, function, pool):
            super().__init__(function, pool)
            seen.append(function.__self__._decision is not None)

    monkeypatch.setitem(graphs.CAPTURES, "cpu", Looks)
    run(adapter(), Workspace(), on_step=(lambda step: None) if watched else None)
    assert set(seen) == {watched}


def layout_of(count, cache="dual", shift=0, guidance=0.0, refreshing=0):
    """A pass in the second block, of which some sequences take the first step."""
    options = {"cache": cache, "suffix": THIN, "guidance": guidance, "look_back": 1}
    live = sequences([[1] * 5] * count, 24, WIDTH, **options)
    for row, q in enumerate(live):
        q.advance()
        q.row, q.start, q.step = row, 50 * row, int(row >= refreshing)
    draw_suffix(live)
    return Planner(shift).layout(live)


@pytest.mark.parametrize("count", range(1, 18))
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("guidance", [0.0, 0.5])
@pytest.mark.parametrize("refreshing", [0, 1, 17])
def test_buckets_hold_their_pass(count, shift, cache, guidance, refreshing):
    layout = layout_of(count, cache, shift, guidance, refreshing)
    bucket = Bucket.of(layout)
    rows = layout.rows // layout.streams
    assert bucket.streams == (2 if guidance else 1)
    assert bucket.rows >= rows and bucket.logit_rows >= layout.target.shape[0]
    padded = bucket.rows > rows or bucket.logit_rows > layout.target.shape[0]
    assert bucket.sequences > count or (not padded and bucket.sequences == count)
    assert bucket.sequences <= sequences_of(count) + 1
    whole = count in (1, 2, 4, 8, 12, 16) and not refreshing
    if cache == "dual" and whole:  # nothing is wasted on whole batches
        assert (bucket.sequences, bucket.rows) == (count, count * (8 + shift))
    room, more = sequences_of(count), rows - 8 * count
    assert bucket.rows <= room * 8 + max(room, more + max(16, more / 4))


@pytest.mark.parametrize("breaks", (False, True))
def test_a_capture_leaves_the_callers_stream(breaks):
    def function():
        seen.append(cuda.stream)
        if breaks and cuda.capturing:
            raise RuntimeError("capture failed")

    with pretended_cuda() as cuda:
        before, seen, pool = cuda.stream, [], CudaGraph.pool()
        with pytest.raises(RuntimeError, match="failed") if breaks else nullcontext():
            CudaGraph(function, pool).replay()
        assert cuda.stream is before and seen == [pool[1]] * 3
        assert cuda.captures == cuda.replays == (not breaks)


def test_a_workspace_comes_back_when_the_device_is_done(monkeypatch):
    waited, device = [], SimpleNamespace(type="cuda")
    stream = SimpleNamespace(synchronize=lambda: waited.append(len(workspaces.free)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda d: stream if d is device else None)
    workspaces = Workspaces()
    with pytest.raises(KeyError), workspaces.borrow() as workspace:
        workspace.arena.layers = [(SimpleNamespace(device=device),) * 2]
        raise KeyError
    assert waited == [0] and workspaces.free == [workspace]


def test_what_a_run_was_given_is_not_kept():
    class Look:
        def __call__(self, step):
            pass

    workspace, look = Workspace(), Look()
    kept = weakref.ref(look)
    assert run(adapter(), workspace, on_step=look)[1].replayed > 0
    del look
    gc.collect()
    assert kept() is None and len(workspace.graphs) > 0


def test_memory_and_pools_that_are_gone_are_refused_by_the_recorder():
    x, pool = torch.ones(4), RecordedCalls.pool()
    graph = RecordedCalls(lambda: torch.add(x, 1), pool)
    graph.replay()
    x = None
    with pytest.raises(RuntimeError, match="freed"):
        graph.replay()
    del graph
    with pytest.raises(RuntimeError, match="gone"):
        RecordedCalls(lambda: None, pool)
    with pytest.raises(RuntimeError, match="under way"):
        RecordedCalls(lambda: RecordedCalls(lambda: None))


def test_batches_are_padded_to_few_sizes():
    sizes = [sequences_of(n) for n in range(1, 34)]
    assert sorted(set(sizes)) == [1, 2, 4, 8, 12, 16, 24, 32, 48]
    assert all(n <= size < 2 * n for n, size in enumerate(sizes, 1))
    assert all(size <= 1.5 * n for n, size in enumerate(sizes, 1) if n > 8)
