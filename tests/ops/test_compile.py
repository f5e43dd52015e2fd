"""torch.compile(fullgraph=True): every operator, few graphs over lengths, no cache copies.

A C++ compiler is needed by the one test that names inductor.
"""

import pytest
import test_plan_pass
import test_suffix_gather
import test_unmask_
import torch
from op_helpers import GraphPasses, assert_same_bits, call, copied, generator, offsets_of
from op_samples import NAMES, WRITTEN, ints, sample
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import run_and_get_code
from torch._subclasses.fake_tensor import FakeTensorMode

from dpad import ops
from dpad.ops import _dispatch


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", NAMES)
def test_fullgraph(name):
    """Inside a function that computes before and after it: same results, same writes."""
    options = {"capture_dynamic_output_shape_ops": True}  # the number of rows of a plan

    def around(args):
        args = {k: v.clone() if isinstance(v, torch.Tensor) and k not in written else v
                for k, v in args.items()}  # fmt: skip
        out = call(name, args)
        if isinstance(out, torch.Tensor):
            return out + out
        return out if out is None else tuple(o + o for o in out)

    written = WRITTEN.get(name, ())
    args = sample(name)
    plain = copied(args)
    with torch._dynamo.config.patch(options):
        actual = torch.compile(around, fullgraph=True, backend="aot_eager")(args)
    expected = around(plain)
    if expected is not None:
        assert_same_bits(actual, expected)
    for argument in written:
        assert_same_bits(args[argument], plain[argument])


@pytest.mark.parametrize(
    "test",
    [
        test_plan_pass.test_the_modes_of_the_design,
        test_suffix_gather.test_empty_passes,
        test_unmask_.test_nan_commits_nothing,
        test_unmask_.test_sequences_are_independent,
    ],
    ids=lambda test: f"{test.__module__}-{test.__name__}",
)
def test_tests_of_operators_compiled(test, compiled_operators):
    """A part of what DPAD_TEST_COMPILED=1 runs."""
    test()


# Planning is for the CPU.
@pytest.mark.parametrize("name", NAMES[NAMES.index("suffix_gather") :])
def test_cuda_kernels_trace(name, monkeypatch):
    """Choosing the kernel for tensors on a GPU leaves one call in the graph; no GPU is needed."""
    monkeypatch.setitem(_dispatch.KERNELS, name, {"cuda"})
    targets = []

    def backend(module, inputs):
        targets.extend(str(n.target) for n in module.graph.nodes if n.op == "call_function")
        return module.forward

    with FakeTensorMode(allow_non_fake_inputs=True):
        args = sample(name)
        for argument, value in args.items():
            if isinstance(value, torch.Tensor):
                args[argument] = torch.empty(value.shape, dtype=value.dtype, device="cuda")
        torch.compile(getattr(ops, name), fullgraph=True, backend=backend)(**args)
    assert [t for t in targets if "dpad" in t] == [f"dpad.{name}.default"]


CAPACITY, VOCAB, MASK = 37, 50, 49


def layer(q, k, v, position, slot, offsets, kv_start, n_keys, cos, sin, k_cache, v_cache):
    """The operators of one attention layer."""
    at = (position, position, slot, offsets, kv_start)
    q = ops.rope_kv_write_(q, k, v, *at, cos, sin, k_cache, v_cache)
    return ops.block_attention(q, k_cache, v_cache, offsets, kv_start, n_keys, 0.3)


def layer_args(counts, seed=0):
    """Of sequences with these numbers of rows; five ranges of the arena."""
    g = generator(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    rows = sum(counts)
    slot = torch.cat([torch.arange(n) for n in counts])
    caches = draw(2, 5 * CAPACITY, 8), draw(2, 5 * CAPACITY, 8)
    qkv = draw(rows, 4, 8), draw(rows, 2, 8), draw(rows, 2, 8)
    batch = torch.randperm(5, generator=g)[: len(counts)] * CAPACITY, torch.tensor(counts) + 1
    return (*qkv, slot + 1, slot, offsets_of(counts), *batch, draw(40, 4), draw(40, 4), *caches)


def rows_and_scores(residual, delta, weight, logits, offsets, rng, temperature, suppress):
    x = ops.swiglu(ops.add_rms_norm_(residual, delta, weight, 1e-5), residual)
    position = torch.arange(logits.shape[0])
    scores = ops.confidence(logits, offsets, position, rng, temperature, suppress, suppress)
    return x, *scores, ops.uniform(rng, offsets, position)


def rows_and_scores_args(counts, seed=0):
    g = generator(seed)
    hidden = [torch.randn(sum(counts), 16, generator=g) for _ in range(2)]
    logits = torch.randn(sum(counts), VOCAB, generator=g)
    rng = torch.randint(0, 9, (len(counts), 3), generator=g)
    temperature = torch.rand(len(counts), generator=g).double()
    return *hidden, torch.ones(16), logits, offsets_of(counts), rng, temperature, ints(4)


def commit(canvas, at, probability, left, status, forward, row, offsets, position, token, length):
    read = ops.suffix_gather(canvas, row, offsets, position, length, MASK)
    score = torch.sin(position.double())
    state = (canvas, at, probability, left, status, forward)
    rule_value = torch.full_like(row, 0.5, dtype=torch.float64)
    rest = (token, score, score, rule_value, torch.full_like(row, 9), length, ints(1, 2))
    ops.unmask_(*state, row, offsets, position, *rest, ops.RULES["threshold"], True, MASK, 2)
    return read


def commit_args(counts, seed=0):
    g = generator(seed)
    canvas = torch.full((5, CAPACITY), MASK)
    counters = [torch.zeros(5, dtype=torch.int64) for _ in range(3)]
    state = (canvas, torch.full_like(canvas, -1), torch.zeros(canvas.shape).double(), *counters)
    row = torch.randperm(5, generator=g)[: len(counts)]
    position = torch.cat([torch.randperm(CAPACITY, generator=g)[:n] for n in counts])
    token = torch.randint(0, MASK, position.shape, generator=g)
    return (*state, row, offsets_of(counts), position, token, torch.full_like(row, CAPACITY))


@pytest.mark.parametrize(
    ("program", "make"),
    [(layer, layer_args), (rows_and_scores, rows_and_scores_args), (commit, commit_args)],
    ids=lambda part: part.__name__,
)
def test_lengths_and_batches_do_not_recompile(program, make):
    """One graph for the first sizes; one for other lengths, one for other batches (all >= 2)."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(program, fullgraph=True, backend=counter)
    batches = ((3, 3), (4, 5), (2, 7), (9, 2, 4), (33, 1), (1, 2, 3, 4), (0, 17), (20, 3, 1, 1, 1))
    for seed, counts in enumerate(batches):
        args = make(counts, seed)
        plain = [a.clone() for a in args]
        assert_same_bits(compiled(*args), program(*plain))
        assert_same_bits(tuple(args), tuple(plain))
    assert counter.frame_count <= 3


def test_caches_are_written_in_place():
    """The graph that runs hands its own inputs to the operators: two layers, views of one base."""

    def layers(q, k, v, *rest):
        *at, caches = rest
        for k_cache, v_cache in caches:
            q = layer(q, k, v, *at, k_cache, v_cache)
        return q

    def args():
        *at, k_cache, v_cache = layer_args((5, 3))
        base = torch.stack([k_cache, k_cache + 1])  # a layer of its own each, one tensor behind
        return *at, [(base[0], v_cache), (base[1], v_cache.clone())]

    passes = GraphPasses()
    given, plain = args(), args()
    out = torch.compile(layers, fullgraph=True, backend=passes)(*given)
    assert_same_bits(out, layers(*plain))
    for pair, expected in zip(given[-1], plain[-1], strict=True):
        assert_same_bits(pair, expected)
    for shape in ((2, 5 * CAPACITY, 8), (2, 2, 5 * CAPACITY, 8)):
        assert not passes.copies(shape)
    assert len(passes.nodes(torch.ops.dpad.rope_kv_write_)) == 2


def read_around_add_rms_norm_(residual, delta, weight):
    hidden = residual * 2
    before = hidden.clone()
    normed = ops.add_rms_norm_(hidden, delta, weight, 1e-5)
    return before, hidden - normed, normed, residual


def read_around_rope_kv_write_(q, k, v, *rest):
    *at, k_cache, v_cache = rest
    old, before = ops.block_attention(q, k_cache, v_cache, *at[2:5], 0.3), v_cache.clone()
    made = k_cache * 1.5
    view = made[:, :, 1:]  # of a tensor that the graph makes
    rotated = ops.rope_kv_write_(q, k, v, at[0], *at[:4], *at[5:], made, v_cache)
    new = ops.block_attention(rotated, made, v_cache, *at[2:5], 0.3)
    return old, new, q + rotated, k, v * 2, before, made - k_cache, view


def read_around_unmask_(canvas, at, probability, *rest):
    before = canvas.clone()
    read = commit(canvas, at, probability, *rest)
    return before, read, canvas == before, probability.sum()


# (program, its arguments, shape of the operand that cannot be written in place)
READERS = [
    (read_around_add_rms_norm_, lambda: rows_and_scores_args((5, 3))[:3], (8, 16)),
    (read_around_rope_kv_write_, lambda: layer_args((5, 3)), (2, 5 * CAPACITY, 8)),
    (read_around_unmask_, lambda: commit_args((5, 3)), (5, CAPACITY)),
]


@pytest.mark.parametrize(
    ("program", "make", "shape"), READERS, ids=[f.__name__ for f, *_ in READERS]
)
def test_operands_that_are_still_read_are_kept(program, make, shape):
    """What is read after a write has the bits it should have: Inductor copies where it must."""
    passes = GraphPasses()
    args = make()
    plain = [a.clone() for a in args]
    actual = torch.compile(program, fullgraph=True, backend=passes)(*args)
    assert_same_bits(actual, program(*plain))
    assert_same_bits(tuple(args), tuple(plain))
    assert passes.copies(shape)


@pytest.mark.slow(reason="Inductor compiles C++")
def test_inductor_writes_the_cache_in_place():
    """The generated code hands its own inputs to the operators and allocates no second cache."""

    def program(hidden, delta, weight, *args):
        kept = read_around_add_rms_norm_(hidden, delta, weight)
        return *kept, layer(*args)

    args = (*rows_and_scores_args((5, 3))[:3], *layer_args((5, 3)))
    plain = [a.clone() for a in args]
    compiled = torch.compile(program, fullgraph=True, backend="inductor")
    actual, (code, *_) = run_and_get_code(compiled, *args)
    for a, e in zip(actual, program(*plain), strict=True):
        torch.testing.assert_close(a, e)
    assert_same_bits(tuple(args), tuple(plain))
    calls = [line for line in code.splitlines() if "torch.ops.dpad.rope_kv_write_.default(" in line]
    assert len(calls) == 1
    shape = f"(2, {5 * CAPACITY}, 8)"
    assert shape in code  # the guards on the inputs
    allocations = [line for line in code.splitlines() if "empty_strided" in line and shape in line]
    assert not allocations
    caches = calls[0].rsplit("(", 1)[1].split(")")[0].split(", ")[-3:-1]
    assert all(c.startswith("arg") for c in caches), calls[0]
