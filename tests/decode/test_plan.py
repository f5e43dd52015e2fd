"""The host's plan: blocks, kept sets, layouts, and that they depend on nothing else."""

import torch

from dpad.decode.plan import Planner, Sequence, blocks_of
from dpad.decode.suffix import Suffix

THIN = Suffix("gaussian", window=16, decay=3.0, scale=2.0, near=1)


def sequence(row=0, prompt=5, new=20, key=3):
    return Sequence(row, prompt + new, key, blocks_of(prompt, prompt + new, 8))


def planner(cache, shift=0, suffix=THIN, seed=1, **options):
    return Planner(suffix, seed, cache, shift, **options)


def test_blocks_cover_the_generated_part():
    assert blocks_of(5, 25, 8) == [(5, 13), (13, 21), (21, 25)]
    assert blocks_of(0, 8, 8) == [(0, 8)]
    assert blocks_of(3, 4, 8) == [(3, 4)]


def test_scopes_of_every_cache_mode():
    for cache, first in (("none", 0), ("prefix", 5), ("dual", 5)):
        q, plan = sequence(), planner(cache)
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
    q, plan = sequence(), planner("dual", shift=1)
    assert plan.layout([q]).logit_row.tolist() == list(range(4, 12))
    q.step = 1
    cached = plan.layout([q])
    assert cached.slot.tolist() == list(range(4, 13))
    assert cached.logit_row.tolist() == list(range(8))
    first = sequence(prompt=0)
    assert plan.layout([first]).logit_row.tolist() == [0, *range(7)]


def test_a_layout_is_reused_until_a_sequence_moves_on():
    q, plan = sequence(), planner("dual")
    first = plan.layout([q])
    q.step = 1
    second = plan.layout([q])
    q.step = 2
    assert plan.layout([q]) is second and second is not first
    assert q.advance() and q.kept is None
    third = plan.layout([q])
    assert third.targets.position.tolist() == list(range(13, 21))
    assert len(q.log) == 2


def test_kept_sets_do_not_depend_on_the_batch_or_the_row():
    alone, plan = sequence(key=9), planner("none")
    plan.layout([alone])
    batch = [sequence(0, key=4), sequence(1, prompt=2, key=1), sequence(2, key=9)]
    planner("none").layout(batch)
    assert torch.equal(batch[2].kept, alone.kept)
    other = sequence(key=9)
    planner("none", seed=2).layout([other])
    assert not torch.equal(other.kept, alone.kept)


def test_supplied_sets_replace_the_draw():
    q = sequence()
    plan = planner("none", supplied=lambda row, block: torch.tensor([14, 20]))
    assert plan.layout([q]).position.tolist() == [*range(13), 14, 20]
