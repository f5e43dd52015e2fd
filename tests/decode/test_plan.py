"""The host's plan: blocks, kept sets, layouts, and that they depend on nothing else."""

import torch

from dpad.decode.plan import Planner, draw_suffix
from dpad.decode.sequence import blocks_of
from dpad.decode.suffix import Suffix
from tests.decode import common

THIN = Suffix("gaussian", window=16, decay=3.0, scale=2.0, near=1)


def sequence(cache="none", prompt=5, new=20, key=3, row=0, **options):
    """One that has a place, and the kept set of its first block."""
    options = {"suffix": THIN, "seed": 1, **options}
    q = common.sequence([1] * prompt, new, cache=cache, row_key=key, **options)
    q.row, q.start = row, 100 * row
    draw_suffix([q])
    return q


def test_blocks_cover_the_generated_part():
    assert blocks_of(5, 25, 8) == [(5, 13), (13, 21), (21, 25)]
    assert blocks_of(0, 8, 8) == [(0, 8)]
    assert blocks_of(3, 4, 8) == [(3, 4)]


def test_scopes_of_every_cache_mode():
    for cache, first in (("none", 0), ("prefix", 5), ("dual", 5)):
        q, plan = sequence(cache), Planner(0)
        refresh = plan.layout([q])
        n = 13 + q.kept.numel()
        assert refresh.slot.tolist() == list(range(n))
        assert refresh.position.tolist() == [*range(13), *q.kept.tolist()]
        q.step = 1
        cached = plan.layout([q])
        last = 13 if cache == "dual" else n
        assert cached.slot.tolist() == list(range(first, last))
        assert cached.n_keys.tolist() == refresh.n_keys.tolist() == [n]
        assert cached.targets.position.tolist() == list(range(5, 13))
        assert cached.logit_row.tolist() == list(range(5 - first, 13 - first))


def test_shift_adds_the_predecessor():
    q, plan = sequence("dual"), Planner(1)
    assert plan.layout([q]).logit_row.tolist() == list(range(4, 12))
    q.step = 1
    cached = plan.layout([q])
    assert cached.slot.tolist() == list(range(4, 13))
    assert cached.logit_row.tolist() == list(range(8))
    assert plan.layout([sequence("dual", prompt=0)]).logit_row.tolist() == [0, *range(7)]


def test_streams_have_ranges_of_their_own():
    live = [sequence(guidance=1.0), sequence(guidance=1.0, row=1, prompt=3)]
    layout = Planner(0).layout(live)
    assert layout.streams == 2 and layout.canvas_row.tolist() == [0, 1, 0, 1]
    assert layout.kv_start.tolist() == [0, 100, live[0].length, 100 + live[1].length]
    assert layout.hidden_until.tolist() == [0, 0, 5, 3]
    assert layout.target.tolist() == [*range(5, 13), *range(3, 11)]


def test_a_layout_is_reused_until_a_sequence_moves_on():
    q, plan = sequence("dual"), Planner(0)
    first = plan.layout([q])
    q.step = 1
    second = plan.layout([q])
    q.step = 2
    assert plan.layout([q]) is second and second is not first
    assert q.advance() and q.kept is None
    draw_suffix([q])
    assert plan.layout([q]).targets.position.tolist() == list(range(13, 21))


def test_a_row_that_is_handed_on_gets_a_layout_of_its_own():
    """The same row, block and phase, and another request: nothing of the old plan is seen."""
    plan = Planner(0)
    first = plan.layout([sequence("dual", prompt=5, key=3)])
    second = plan.layout([sequence("dual", prompt=9, key=4)])
    assert second.targets.position.tolist() == list(range(9, 17)) != first.target.tolist()


def test_kept_sets_do_not_depend_on_the_batch_or_the_row():
    alone = sequence(key=9)
    batch = [common.sequence([1] * n, 25 - n, suffix=THIN, seed=1, row_key=k)
             for n, k in ((5, 4), (2, 1), (5, 9))]  # fmt: skip
    draw_suffix(batch)
    assert torch.equal(batch[2].kept, alone.kept)
    assert not torch.equal(sequence(key=9, seed=2).kept, alone.kept)


def test_seeds_may_differ_within_a_draw():
    batch = [common.sequence([1] * 5, 20, suffix=THIN, seed=n, row_key=2) for n in (3, 1, 2**62)]
    draw_suffix(batch)
    for q in batch:
        assert torch.equal(q.kept, sequence(key=2, seed=q.seed).kept)
    assert not torch.equal(batch[0].kept, batch[1].kept)
