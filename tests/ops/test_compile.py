"""torch.compile(fullgraph=True): every operator, few graphs over lengths, no cache copies."""

import pytest
import torch
from op_helpers import assert_same_bits, call, copied, generator
from op_samples import NAMES, WRITTEN, ints, sample
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import run_and_get_code

from dpad import ops


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


def layer(q, k, v, position, slot, q_offsets, n_keys, cos, sin, k_cache, v_cache):
    """The operators of one attention layer over one sequence."""
    row = torch.zeros(1, dtype=torch.int64)
    at = (position, position, slot, q_offsets, row)
    q = ops.rope_kv_write_(q, k, v, *at, cos, sin, k_cache, v_cache)
    return ops.block_attention(q, k_cache, v_cache, q_offsets, row, n_keys, 0.3)


CAPACITY = 37


def layer_args(rows, seed=0):
    g = generator(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    at = torch.arange(rows)
    caches = draw(1, 2, CAPACITY, 8), draw(1, 2, CAPACITY, 8)
    qkv = draw(rows, 4, 8), draw(rows, 2, 8), draw(rows, 2, 8)
    return (*qkv, at, at + 1, ints(0, rows), ints(rows + 1), draw(40, 4), draw(40, 4), *caches)


def test_lengths_do_not_recompile():
    """One static graph, one dynamic graph, whatever the number of rows (>= 2)."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for rows in (3, 4, 9, 2, 33, 17, 5):
        args = layer_args(rows)
        plain = [a.clone() for a in args]
        assert_same_bits(compiled(*args), layer(*plain))
        assert_same_bits(args[-1], plain[-1])
    assert counter.frame_count <= 2


def test_row_and_sampling_operators_do_not_recompile():
    def rest(residual, delta, weight, logits, offsets, rng, temperature, suppress):
        x = ops.swiglu(ops.add_rms_norm_(residual, delta, weight, 1e-5), residual)
        position = torch.arange(logits.shape[0])
        return x, ops.confidence(logits, offsets, position, rng, temperature, suppress, suppress)[0]

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(rest, fullgraph=True, backend=counter)
    for rows in (3, 4, 9, 2, 33, 17):
        g = generator(rows)
        hidden = [torch.randn(rows, 16, generator=g) for _ in range(2)]
        logits = torch.randn(rows, 50, generator=g)
        args = [*hidden, torch.ones(16), logits, ints(0, rows), ints(1, 2, 3)[None],
                torch.zeros(1).double(), ints(4)]  # fmt: skip
        plain = [a.clone() for a in args]
        assert_same_bits(compiled(*args), rest(*plain))
        assert_same_bits(args[0], plain[0])
    assert counter.frame_count <= 2


def test_inductor_writes_the_cache_in_place():
    """The generated code hands its own inputs to the operators and allocates no second cache."""
    args = layer_args(5)
    plain = [a.clone() for a in args]
    compiled = torch.compile(layer, fullgraph=True, backend="inductor")
    out, (code, *_) = run_and_get_code(compiled, *args)
    torch.testing.assert_close(out, layer(*plain))
    assert_same_bits(args[-2], plain[-2])
    assert_same_bits(args[-1], plain[-1])
    calls = [line for line in code.splitlines() if "torch.ops.dpad.rope_kv_write_.default(" in line]
    assert len(calls) == 1 and calls[0].count("arg") >= 2
    shape = f"(1, 2, {CAPACITY}, 8)"
    assert shape in code  # the guards on the inputs
    allocations = [line for line in code.splitlines() if "empty_strided" in line and shape in line]
    assert not allocations
    caches = calls[0].rsplit("(", 1)[1].split(")")[0].split(", ")[-3:-1]
    assert all(c.startswith("arg") for c in caches), calls[0]
