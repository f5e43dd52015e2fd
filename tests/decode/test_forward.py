"""What a pass computes: only what is read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dpad
from dpad.decode.cache import KVArena, Ranges
from tests.decode.common import MASK_ID, adapter, tiny

OPTIONS = {"max_new_tokens": 24, "block_length": 8, "seed": 0, "early_stop": False}


def rows_seen(model, path, run):
    """Rows that the Linear at `path` gets in each call while `run` runs."""
    seen = []
    hook = model.get_submodule(path).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].shape[0])
    )
    run()
    hook.remove()
    return seen


def test_only_logit_rows_reach_the_head_and_the_last_mlp():
    model = tiny(layers=2)
    run = lambda: dpad.generate(model, [[1, 2, 3]], threshold=0.3, **OPTIONS)  # noqa: E731
    tree = "model.transformer."
    assert set(rows_seen(model, tree + "ff_out", run)) == {8}
    for name in ("q_proj", "attn_out", "ff_proj", "ff_out"):
        assert set(rows_seen(model, f"{tree}blocks.1.{name}", run)) == {8}
    assert max(rows_seen(model, tree + "blocks.1.k_proj", run)) == 27
    assert max(rows_seen(model, tree + "blocks.0.q_proj", run)) == 27


def test_cached_steps_compute_the_block_only():
    model = tiny()
    for cache, width in (("none", 27), ("prefix", 24), ("dual", 8)):
        run = lambda c=cache: dpad.generate(  # noqa: E731
            model, [[1, 2, 3]], suffix=dpad.Suffix("all"), cache=c, **OPTIONS
        )
        seen = rows_seen(model, "model.transformer.blocks.0.q_proj", run)
        assert seen[0] == 27 and seen[1] == width
        assert len(seen) == 24


def test_one_status_read_per_step(monkeypatch):
    from dpad.decode.canvas import Canvas

    reads = []
    read = Canvas.read_status
    monkeypatch.setattr(Canvas, "read_status", lambda self: reads.append(1) or read(self))
    out = dpad.generate(
        tiny(), [[1, 2, 3], [4, 5, 6]], threshold=0.3, return_dict_in_generate=True, **OPTIONS
    )
    assert len(reads) == int(out.forwards.max())


def test_half_precision_runs_and_grouped_heads_agree_with_the_stock_forward():
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        for heads, kv_heads in ((4, 4), (4, 2), (4, 1)):
            model = tiny(heads=heads, kv_heads=kv_heads).to(dtype)
            ids = torch.randint(0, 50, (2, 11))
            with torch.no_grad():
                stock = model(ids).logits
                with dpad.patch(model):
                    ours = model(ids).logits
            assert ours.dtype == dtype
            difference = (ours.float() - stock.float()).abs().max()
            assert difference <= tolerance * stock.float().abs().max()
            assert (dpad.generate(model, ids, **OPTIONS) != MASK_ID).all()


def test_the_arena_is_kept_grows_and_is_freed():
    arena, view = KVArena(), adapter()
    arena.reserve(view, 80)
    first = arena.layers[0][0]
    arena.reserve(view, 30)
    assert arena.layers[0][0] is first
    assert arena.bytes == 2 * 2 * 2 * 80 * 8 * 4  # K and V, layers, heads, slots, head_dim, float32
    arena.reserve(view, 120)
    assert arena.layers[0][0].shape == (2, 120, 8)
    start = arena.ranges.take(50)
    with pytest.raises(RuntimeError, match="120 slots cannot grow to 200: sequences hold 50"):
        arena.reserve(view, 200)
    arena.ranges.give(start, 50)
    arena.release()
    assert arena.bytes == arena.slots == 0


@given(st.data())
def test_ranges_never_overlap_and_all_come_back(data):
    ranges, held = Ranges(64), {}
    for _ in range(data.draw(st.integers(1, 40))):
        if held and data.draw(st.booleans()):
            start = data.draw(st.sampled_from(sorted(held)))
            ranges.give(start, held.pop(start))
        else:
            length = data.draw(st.integers(1, 30))
            start = ranges.take(length)
            if start is None:
                assert all(gap < length for _, gap in ranges.gaps)
                continue
            held[start] = length
        places = sorted([*held.items(), *ranges.gaps])
        assert [a + n for a, n in places] == [*(a for a, _ in places[1:]), 64]
        assert places[0][0] == 0 and ranges.free == 64 - sum(held.values())
        assert all(a + n != b for (a, n), (b, _) in zip(ranges.gaps, ranges.gaps[1:], strict=False))
    for start, length in held.items():
        ranges.give(start, length)
    assert ranges.gaps == [(0, 64)]


def test_an_mlp_in_pieces_gives_the_same_tokens(monkeypatch):
    from dpad.models import mlp

    prompts = torch.randint(0, 50, (5, 9))
    whole = dpad.generate(tiny(), prompts, threshold=0.4, **OPTIONS)
    seen = []
    monkeypatch.setattr(mlp, "ROWS", 16)
    model = tiny()
    gate = model.model.transformer.blocks[0].ff_proj
    gate.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[0]))
    assert torch.equal(dpad.generate(model, prompts, threshold=0.4, **OPTIONS), whole)
    assert max(seen) == 16
