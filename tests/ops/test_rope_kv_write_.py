"""rope_kv_write_: bitwise the models' own rotation, written into exactly the named slots."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import (
    DTYPES,
    Guarded,
    assert_same_bits,
    call,
    copied,
    generator,
    offsets_of,
    threads,
    twin,
)
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb


def rope_case(
    seed, dtype, dim, kv_heads, group, counts, capacity=None, q_rows=None, rotary=None, full=True
):
    """A pass of sequences with these row counts; a fifth of the rows is padding (slot -1)."""
    g = generator(seed)
    rows, ranges, positions = sum(counts), len(counts) + 1, 50
    capacity = capacity or max(counts, default=0) + 2
    half = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    slots = [torch.randperm(capacity, generator=g)[:n] for n in counts]
    slot = torch.cat([*slots, torch.zeros(0, dtype=torch.int64)])
    slot[torch.rand(rows, generator=g) < 0.2] = -1
    q_rows = rows if q_rows is None else q_rows
    angles = torch.rand(positions, (rotary or dim) // 2, generator=g) * 100
    return {
        "q": half(q_rows, kv_heads * group, dim),
        "k": half(rows, kv_heads, dim),
        "v": half(rows, kv_heads, dim),
        "q_position": torch.randint(0, positions, (q_rows,), generator=g),
        "position": torch.randint(0, positions, (rows,), generator=g),
        "slot": slot,
        "q_offsets": offsets_of(counts),
        "kv_start": torch.randperm(ranges, generator=g)[: len(counts)] * capacity,
        "cos": angles.cos(),
        "sin": angles.sin(),
        "k_cache": half(kv_heads, ranges * capacity, dim),
        "v_cache": half(kv_heads, ranges * capacity, dim),
        "full_precision": full,
    }


def rotated(x, cos, sin, full):
    """The models' code: x * cos + rotate_half(x) * sin on tables written twice.

    In float32 with one rounding (LLaDA), or with every operation in the dtype (Qwen2, Dream).
    """
    turning = 2 * cos.shape[-1]
    cos, sin = (torch.cat((t, t), -1)[:, None] for t in (cos, sin))
    head, rest = x[..., :turning], x[..., turning:]
    y = head.float() if full else head
    first, second = y.chunk(2, -1)
    turned = y * cos.to(y.dtype) + torch.cat((-second, first), -1) * sin.to(y.dtype)
    return torch.cat((turned.to(x.dtype), rest), -1)


def check(args):
    """Kernel and twin against the models' formula and a loop over the rows, bit for bit."""
    k_cache, v_cache = args["k_cache"].clone(), args["v_cache"].clone()
    for at in ("q_position", "position"):
        assert args[at].numel() == 0 or int(args[at].max()) < args["cos"].shape[0]
    tables = lambda at: (args["cos"][at], args["sin"][at])  # noqa: E731
    full = args["full_precision"]
    q = rotated(args["q"], *tables(args["q_position"]), full)
    k = rotated(args["k"], *tables(args["position"]), full)
    offsets = args["q_offsets"].tolist()
    for b, start in enumerate(args["kv_start"].tolist()):
        for i in range(offsets[b], offsets[b + 1]):
            slot = int(args["slot"][i])
            if slot >= 0:
                k_cache[:, start + slot] = k[i]
                v_cache[:, start + slot] = args["v"][i]
    plain = copied(args)
    assert_same_bits(twin("rope_kv_write_", plain), q)
    assert_same_bits(call("rope_kv_write_", args), q)
    for result in (plain, args):
        assert_same_bits(result["k_cache"], k_cache)
        assert_same_bits(result["v_cache"], v_cache)


SHAPES = [  # head_dim, kv_heads, group, counts
    (8, 1, 1, [1]),
    (16, 2, 2, [5, 0, 3]),
    (20, 1, 7, [1, 2]),
    (64, 2, 1, [33]),
    (128, 2, 4, [17, 1]),
    (2, 3, 1, [4]),
    (72, 1, 2, [9]),
    (8, 2, 1, []),
    (8, 2, 1, [0]),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("full", [True, False])
def test_awkward_shapes(isa, dtype, shape, full):
    check(rope_case(0, dtype, *shape, full=full))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rotary", [2, 6, 20, 34])
def test_partial_rotation_copies_the_rest(isa, dtype, rotary):
    check(rope_case(1, dtype, 40, 2, 2, [7, 3], rotary=rotary))


def test_only_logit_rows_of_q(isa):
    """The last layer rotates q for the logit rows alone, and writes K and V of all rows."""
    check(rope_case(2, torch.float32, 16, 2, 2, [9, 4], q_rows=3))
    check(rope_case(2, torch.float32, 16, 2, 2, [9, 4], q_rows=0))


@given(st.data())
def test_random_passes(isa, data):
    dim = data.draw(st.sampled_from((2, 8, 16, 20, 36, 64, 80, 128)))
    args = rope_case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.sampled_from(DTYPES)),
        dim,
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 4)),
        data.draw(st.lists(st.integers(0, 20), max_size=3)),
        q_rows=data.draw(st.one_of(st.none(), st.integers(0, 9))),
        rotary=2 * data.draw(st.integers(1, dim // 2)),
        full=data.draw(st.booleans()),
    )
    order = data.draw(st.sampled_from(((0, 1, 2), (1, 0, 2))))
    gap = data.draw(st.integers(0, 3))
    guarded = Guarded()
    placed = guarded.put_all(
        args,
        written=("k_cache", "v_cache"),
        k_cache=(order, gap),
        v_cache=(order, 1),
        q=((1, 0, 2), gap),
        k=((2, 0, 1), 0),  # the last dimension is not contiguous
        v=((0, 1, 2), gap),
        cos=((1, 0), 0),
        slot=(None, 2),
    )
    check(placed)
    guarded.check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_transformers_rotation(isa, dtype):
    """The stock apply_rotary_pos_emb, in the dtype and in float32."""
    for full in (True, False):
        args = rope_case(3, dtype, 32, 2, 2, [12], full=full)
        wide = torch.float32 if full else dtype
        at = args["position"]
        args["q_position"] = at
        cos, sin = (torch.cat((args[t][at],) * 2, -1).to(wide)[None] for t in ("cos", "sin"))
        q, k = (args[x].to(wide).transpose(0, 1)[None] for x in ("q", "k"))
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        q, k = (x[0].transpose(0, 1).to(dtype).contiguous() for x in (q, k))
        assert_same_bits(call("rope_kv_write_", args), q)
        kept = args["slot"] >= 0
        cache = args["k_cache"].transpose(0, 1)
        assert_same_bits(cache[args["kv_start"][0] + args["slot"][kept]], k[kept])


def test_values_are_copied_bit_for_bit(isa):
    args = rope_case(4, torch.float32, 8, 1, 1, [3])
    args["slot"] = torch.tensor([0, 1, 2])
    payload = torch.tensor([0x7F800001, -(2**31), 0x7FC12345], dtype=torch.int32)
    args["v"][:] = payload.view(torch.float32)[:, None, None]
    call("rope_kv_write_", args)
    start = int(args["kv_start"][0])
    assert_same_bits(args["v_cache"][0, start : start + 3], args["v"][:, 0])


def test_same_bits_at_every_thread_count(isa):
    args = rope_case(5, torch.bfloat16, 128, 2, 2, [70, 3, 40])  # enough for two threads
    other = copied(args)
    with threads(1):
        one = call("rope_kv_write_", args)
    with threads(2):
        assert_same_bits(call("rope_kv_write_", other), one)
    assert_same_bits(other["k_cache"], args["k_cache"])


def test_strides_beyond_two_to_the_31(isa):
    """Offsets are 64-bit. The memory before the sequence's slots is reserved, never touched."""
    start = 2**28 + 1  # slots of 8 elements
    args = rope_case(6, torch.float16, 8, 1, 1, [4], capacity=4)
    args["slot"] = torch.tensor([2, 0, 3, 1])
    near, far = copied(args), dict(args)
    for name in ("k_cache", "v_cache"):
        far[name] = torch.from_numpy(np.zeros((1, start + 4, 8), dtype=np.float16))
    far["kv_start"] = torch.tensor([start])
    call("rope_kv_write_", near)
    call("rope_kv_write_", far)
    at = int(near["kv_start"][0])
    for name in ("k_cache", "v_cache"):
        assert far[name][:, :4].eq(0).all()
        assert_same_bits(far[name][:, start:], near[name][:, at : at + 4])


def test_slots_that_are_written_twice_are_refused():
    """In one sequence and across the ranges of two, in any order; before anything is written."""
    args = rope_case(7, torch.float32, 8, 1, 1, [3, 2], capacity=6)
    args["kv_start"] = torch.tensor([4, 0])
    cases = {
        (0, 1, 0, 2, 3): r"slot'\[2\] = 0: slot 4 of the arena .*row 0",
        (1, 0, 2, 3, 4): r"slot'\[4\] = 4: slot 4 of the arena .*row 1",
        (2, -1, 2, 0, 1): r"slot'\[2\] = 2: slot 6 of the arena .*row 0",
    }
    before = copied(args)
    for slots, text in cases.items():
        with pytest.raises(RuntimeError, match=text):
            call("rope_kv_write_", {**args, "slot": torch.tensor(slots)})
        for name in ("k_cache", "v_cache"):
            assert_same_bits(args[name], before[name])
    for slots in ((2, 1, 0, 3, 2), (5, 3, 4, 1, 0), (-1, -1, -1, -1, -1)):
        call("rope_kv_write_", {**args, "slot": torch.tensor(slots)})
