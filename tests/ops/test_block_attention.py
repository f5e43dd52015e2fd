"""block_attention: parity, visibility, and rows that depend on nothing but themselves."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import (
    DTYPES,
    Guarded,
    assert_same_bits,
    assert_twice,
    call,
    generator,
    offsets_of,
    threads,
    twin,
)

NAN = float("nan")


def attention_case(seed, dtype, dim, kv_heads, group, queries, keys, spare=0, mask=0, limit=0):
    """Sequences with these query and key counts; every slot that no row may read holds NaN.

    `spare` more slots than the longest sequence needs; `mask` and `limit` add those arguments.
    """
    g = generator(seed)
    capacity, ranges = max(keys, default=0) + spare, len(keys) + 1
    kv_start = torch.randperm(ranges, generator=g)[: len(keys)] * capacity
    caches = torch.full((2, kv_heads, ranges * capacity, dim), NAN).to(dtype)
    key_mask = torch.rand(ranges * capacity, generator=g) < 0.7
    key_limit = torch.cat(
        [torch.randint(0, n + 3, (q,), generator=g) for q, n in zip(queries, keys, strict=True)]
        or [torch.zeros(0, dtype=torch.int64)]
    )
    offsets = offsets_of(queries)
    for b, n in enumerate(keys):
        rows = slice(offsets[b], offsets[b + 1])
        last = min(n, int(key_limit[rows].max())) if limit and rows.start < rows.stop else n
        seen = torch.arange(last) + kv_start[b]
        if mask:
            seen = seen[key_mask[seen]]
        drawn = torch.randn(2, kv_heads, len(seen), dim, generator=g)
        caches[:, :, seen] = drawn.to(dtype)
    return {
        "q": torch.randn(sum(queries), kv_heads * group, dim, generator=g).to(dtype),
        "k_cache": caches[0],
        "v_cache": caches[1],
        "q_offsets": offsets,
        "kv_start": kv_start,
        "n_keys": torch.tensor(keys, dtype=torch.int64),
        "scale": dim**-0.5,
        "key_mask": key_mask if mask else None,
        "key_limit": key_limit if limit else None,
    }


def values_of(args, name):
    """What the first sequence sees of `name`, in the first head: ``[n_keys, head_dim]``."""
    start = int(args["kv_start"][0])
    return args[name][0, start : start + int(args["n_keys"][0])]


def exact(args):
    """float64 attention by F.scaled_dot_product_attention with a dense mask."""
    out = torch.zeros(args["q"].shape, dtype=torch.float64)
    group = args["q"].shape[1] // args["k_cache"].shape[0]
    offsets = args["q_offsets"].tolist()
    for b, (start, n) in enumerate(
        zip(args["kv_start"].tolist(), args["n_keys"].tolist(), strict=True)
    ):
        slots = slice(start, start + n)
        rows = slice(offsets[b], offsets[b + 1])
        seen = torch.ones(rows.stop - rows.start, n, dtype=torch.bool)
        if args["key_mask"] is not None:
            seen &= args["key_mask"][slots]
        if args["key_limit"] is not None:
            seen &= torch.arange(n) < args["key_limit"][rows, None]
        k, v = (
            args[c][:, slots].double().nan_to_num().repeat_interleave(group, 0)
            for c in ("k_cache", "v_cache")
        )
        q = args["q"][rows].double().transpose(0, 1)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=args["scale"])
        out[rows] = torch.where(seen.any(-1)[:, None, None], a.transpose(0, 1), 0.0)
    return out


def largest_score(args):
    """Largest |scale q . k| of any row and slot that it could look at."""
    group = args["q"].shape[1] // args["k_cache"].shape[0]
    offsets, largest = args["q_offsets"].tolist(), 0.0
    for b, (start, n) in enumerate(
        zip(args["kv_start"].tolist(), args["n_keys"].tolist(), strict=True)
    ):
        k = args["k_cache"][:, start : start + n].double().nan_to_num().repeat_interleave(group, 0)
        q = args["q"][offsets[b] : offsets[b + 1]].double().transpose(0, 1)
        scores = q @ k.transpose(1, 2) * args["scale"]
        largest = max(largest, float(scores.abs().max()) if scores.numel() else 0.0)
    return largest


def check(args):
    # A score that is wrong in its last float32 digit moves a weight by that part of its size.
    size = exact({**args, "v_cache": args["v_cache"].abs()}).amax() if args["q"].numel() else None
    if size is not None:
        size *= 1 + largest_score(args)
    actual = call("block_attention", args)
    assert_twice(actual, twin("block_attention", args), exact(args), size)


SHAPES = [  # head_dim, kv_heads, group, queries, keys
    (8, 1, 1, [1], [1]),
    (16, 2, 2, [5, 0, 3], [9, 4, 0]),
    (20, 1, 7, [1, 2], [97, 96]),
    (64, 2, 1, [33], [95]),
    (64, 1, 2, [130], [130]),
    (128, 2, 1, [32], [1024]),
    (128, 1, 2, [16, 1, 17], [193, 1, 700]),
    (4, 3, 3, [2], [1]),
    (1, 1, 1, [3], [5]),
    (72, 1, 1, [31, 65], [64, 288]),
    (8, 2, 1, [], []),
    (8, 2, 1, [0, 0], [0, 7]),
    (16, 1, 1, [4], [0]),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_awkward_shapes(isa, dtype, shape):
    check(attention_case(0, dtype, *shape, spare=3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("mask", "limit"), [(1, 0), (0, 1), (1, 1)])
def test_masks_and_limits(isa, dtype, mask, limit):
    case = attention_case(1, dtype, 20, 2, 2, [40, 3], [300, 5], spare=5, mask=mask, limit=limit)
    check(case)


@given(st.data())
def test_random_passes(isa, data):
    counts = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 210)), min_size=1, max_size=3)
    sequences = data.draw(counts)
    args = attention_case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.sampled_from(DTYPES)),
        data.draw(st.sampled_from((2, 8, 16, 20, 24, 40, 64, 80, 96, 128))),
        data.draw(st.integers(1, 2)),
        data.draw(st.integers(1, 4)),
        [q for q, _ in sequences],
        [n for _, n in sequences],
        spare=data.draw(st.integers(0, 4)),
        mask=data.draw(st.integers(0, 1)),
        limit=data.draw(st.integers(0, 1)),
    )
    order = data.draw(st.sampled_from(((0, 1, 2), (1, 0, 2))))
    gap = data.draw(st.integers(0, 3))
    guarded = Guarded()
    placed = guarded.put_all(
        args, k_cache=(order, gap), v_cache=(order, 0), q=((1, 0, 2), gap), kv_start=(None, 2)
    )
    check(placed)
    guarded.check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_hot_weights_copy_a_value(isa, dtype):
    """A query far along one key gives that key's value, bit for bit."""
    keys, dim = 100, 128
    args = attention_case(2, dtype, dim, 1, 1, [keys], [keys])
    values_of(args, "k_cache")[:] = torch.eye(dim)[:keys].to(dtype)
    args["q"][:, 0] = (2000 * torch.eye(dim)[:keys]).to(dtype)
    args["scale"] = 1.0
    out = call("block_attention", args)
    assert_same_bits(out[:, 0], values_of(args, "v_cache").contiguous())


def test_weights_of_exact_scores(isa):
    """Scores 0 and -s that float32 holds exactly: the weight is right to 4 + 1.25 s half units."""
    s = torch.arange(0, 86 * 16) / 16
    cache = torch.tensor([0.0, 1.0]).view(1, 2, 1)
    rows = {"q": -s[:, None, None], "q_offsets": offsets_of([len(s)])}
    one = {"kv_start": torch.tensor([0]), "n_keys": torch.tensor([2]), "scale": 1.0}
    out = call("block_attention", {**rows, "k_cache": cache, "v_cache": cache, **one})
    truth = torch.sigmoid(-s.double())
    error = (out.flatten().double() / truth - 1).abs()
    assert (error <= (4 + 1.25 * s) * torch.finfo(torch.float32).eps / 2).all()


def test_limits_beyond_the_whole_numbers_of_float32(isa):
    """Limits of 2^24 and more are compared as they are."""
    far = 2**24
    mask = torch.zeros(far + 4, dtype=torch.bool)
    mask[far:] = True
    v = torch.zeros(1, far + 4, 1)
    v[0, far:, 0] = torch.tensor([12.0, 24.0, 36.0, 48.0])
    limit = torch.tensor([far, far + 1, far + 2, far + 3, far + 9])
    out = call("block_attention", {
        "q": torch.zeros(5, 1, 1), "k_cache": v, "v_cache": v, "q_offsets": offsets_of([5]),
        "kv_start": torch.tensor([0]), "n_keys": torch.tensor([far + 4]), "scale": 1.0,
        "key_mask": mask, "key_limit": limit,
    })  # fmt: skip
    assert out.flatten().tolist() == [0.0, 12.0, 18.0, 24.0, 30.0]


def test_large_scores_stay_inside_the_values(isa):
    args = attention_case(3, torch.float32, 64, 1, 1, [40], [150])
    args["q"] *= 1e4
    out = call("block_attention", args)
    seen = values_of(args, "v_cache")
    assert (out[:, 0] <= seen.amax(0) + 1e-6).all() and (out[:, 0] >= seen.amin(0) - 1e-6).all()


def test_equal_scores_average(isa):
    args = attention_case(4, torch.float32, 16, 1, 2, [9], [211])
    args["q"].zero_()
    mean = values_of(args, "v_cache").double().mean(0)
    torch.testing.assert_close(
        call("block_attention", args).double(), mean.expand(9, 2, 16), rtol=0, atol=1e-6
    )


def test_a_row_without_keys_is_zero(isa):
    args = attention_case(5, torch.float32, 8, 1, 1, [3, 2], [4, 0], spare=2, limit=1)
    args["key_limit"][:] = torch.tensor([0, -5, 4, 0, 9])
    args["v_cache"].fill_(1.0)
    args["k_cache"].fill_(1.0)
    out = call("block_attention", args)
    assert out[[0, 1, 3, 4]].eq(0).all()
    assert out[2].ne(0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("mask", "limit"), [(0, 0), (1, 1)])
def test_a_row_depends_on_nothing_else(isa, dtype, mask, limit):
    """Bitwise: each row alone equals the row in its batch."""
    args = attention_case(6, dtype, 40, 2, 3, [19, 45], [230, 99], mask=mask, limit=limit)
    whole = call("block_attention", args)
    for row in (0, 7, 18, 19, 40, 63):
        b = int(row >= 19)
        alone = {
            **args,
            "q": args["q"][row : row + 1],
            "q_offsets": torch.tensor([0, 1]),
            "kv_start": args["kv_start"][b : b + 1],
            "n_keys": args["n_keys"][b : b + 1],
            "key_limit": args["key_limit"][row : row + 1] if limit else None,
        }
        assert_same_bits(call("block_attention", alone)[0], whole[row])


def test_heads_of_a_group_equal_repeated_keys(isa):
    args = attention_case(7, torch.float32, 24, 2, 3, [21], [130])
    repeated = {
        **args,
        "k_cache": args["k_cache"].repeat_interleave(3, 0),
        "v_cache": args["v_cache"].repeat_interleave(3, 0),
    }
    assert_same_bits(call("block_attention", args), call("block_attention", repeated))


def test_same_bits_at_every_thread_count(isa):
    args = attention_case(8, torch.bfloat16, 64, 2, 2, [70, 3, 40], [300, 10, 77])
    with threads(1):
        one = call("block_attention", args)
    with threads(2):
        for _ in range(5):
            assert_same_bits(call("block_attention", args), one)


def test_a_bad_query_stays_in_its_row(isa):
    args = attention_case(9, torch.float32, 16, 1, 1, [40], [60])
    good = call("block_attention", args)
    args["q"][7] = NAN
    bad = call("block_attention", args)
    assert bad[7].isnan().all()
    assert_same_bits(bad[:7], good[:7])
    assert_same_bits(bad[8:], good[8:])


def test_strides_beyond_two_to_the_31(isa):
    """Offsets are 64-bit. The memory before the sequence's slots is reserved, never touched."""
    start = 2**28 + 1  # slots of 8 elements
    args = attention_case(10, torch.float16, 8, 1, 1, [2], [4])
    far = {}
    for name in ("k_cache", "v_cache"):
        far[name] = torch.from_numpy(np.zeros((1, start + 4, 8), dtype=np.float16))
        far[name][0, start:] = values_of(args, name)
    expected = call("block_attention", args)
    args = {**args, **far, "kv_start": torch.tensor([start])}
    assert_same_bits(call("block_attention", args), expected)
