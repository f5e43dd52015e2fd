"""Schedules: how many positions a rule may commit in each step."""

from types import SimpleNamespace

import pytest

from dpad.decode import commit
from dpad.decode.schedule import Schedule


def standing(masks, step=0, **more):
    """What a schedule reads of a sequence in its first block."""
    return SimpleNamespace(
        block=0, step=step, masks=masks, cohort=None, ended=False, phase="denoise", **more
    )


def quotas(rule, lengths, steps, first_alone=False):
    """Quotas of the first `steps` steps of the first block, every one of them filled."""
    schedule = Schedule(rule, lengths, first_alone)
    q, found = standing(lengths[0]), []
    for q.step in range(steps):
        found.append(schedule.of(q)[1])
        schedule.taken(q)
    return found


def test_linear_spreads_the_remainder_over_the_first_steps():
    assert quotas(commit.fixed_quota(10), [32], 10) == [4, 4, 3, 3, 3, 3, 3, 3, 3, 3]
    assert quotas(commit.fixed_quota(9), [3], 3) == [1, 1, 1]
    assert quotas(commit.fixed_quota(), [32], 3) == [1, 1, 1]


@pytest.mark.parametrize(("masks", "steps"), [(32, 32), (24, 12), (32, 5), (7, 30), (9, 1)])
def test_dream_waits_first_and_finishes_last(masks, steps):
    """floor(m (1 - t_{i+1} / t_i)) with t from 1 to 1e-3, the rest in the last step."""
    found = quotas(commit.fixed_quota(steps, schedule="dream"), [masks], steps)
    assert sum(found) == masks and len(found) == steps
    left = masks
    for i, n in enumerate(found[:-1]):
        t, s = (1 - (1 - 1e-3) * j / steps for j in (i, i + 1))
        assert abs(left * (1 - s / t) - n - 0.5) <= 0.5 + 1e-4
        left -= n
    if steps == masks:
        assert found[0] == 0 and found[-1] == 2


def test_dream_in_blocks_takes_one_step_less():
    rule = commit.fixed_quota(16, schedule="dream-block")
    found = quotas(rule, [32, 32], 7)
    assert sum(found) == 32
    alone = quotas(rule, [32, 32], 8, first_alone=True)
    assert alone[0] == 1 and sum(alone) == 32


def test_origin_commits_with_the_share_of_the_time_that_passes():
    schedule = Schedule(commit.independent(4, eps=0.2), [8])
    q, found = standing(8), []
    for q.step in range(5):
        value, quota, leave = schedule.of(q)
        assert quota >= 8 and leave == -1
        found.append(value)
    assert found[:3] == pytest.approx([1 - 0.8, 1 - 0.6 / 0.8, 1 - 0.4 / 0.6], abs=1e-6)
    assert found[3:] == [float("inf")] * 2


def test_carried_quota_is_what_earlier_steps_left():
    """8 masks in 4 steps: two may go in each, and what was held back may follow."""
    q = standing(8)
    schedule = Schedule(commit.threshold(0.9, steps=4), [8])
    assert schedule.of(q) == (0.9, 2, -1)
    for q.step, masks, wanted in ((1, 7, 3), (2, 6, 4), (3, 2, 2), (4, 1, 1)):
        assert masks - schedule.of(q)[2] == wanted


def test_dreams_quota_is_the_mean_of_the_cohort():
    """Of the rows in the same step of the same block; a row alone looks at itself only."""
    rule = commit.fixed_quota(4, schedule="dream")
    rows = [standing(masks) for masks in (8, 2, 5)]
    rows.append(standing(8, step=1))  # in another step
    together = [SimpleNamespace(**{**vars(q), "cohort": rows}) for q in rows]
    schedule = Schedule(rule, [8])
    assert [schedule.of(q)[1] for q in rows[:2]] == [1, 0]  # a quarter of 8, less a little; of 2
    assert [schedule.of(q)[1] for q in together[:3]] == [1, 1, 1]  # of the mean of 5
    rows[0].ended = True
    assert schedule.of(together[1])[1] == 0


class Counted(list):
    """Counts how often it is gone through."""

    read = 0

    def __iter__(self):
        self.read += 1
        return super().__iter__()


def test_a_pass_goes_through_a_cohort_once():
    """Once for each step that its rows are in: thousands of rows are thousands of reads."""
    schedule = Schedule(commit.fixed_quota(4, schedule="dream"), [8])
    rows = [standing(masks, step) for step in (0, 1) for masks in (8, 2, 5, 7)]
    cohort, means = Counted(rows), {}
    for q in rows:
        q.cohort = cohort
    wanted = [schedule.of(q) for q in rows]
    assert [quota for _, quota, _ in wanted] == [1] * 8 and cohort.read == 8
    assert [schedule.told(q, means) for q in rows] == [(*told, None) for told in wanted]
    assert cohort.read == 8 + 2


def test_rules_without_steps_have_no_limit():
    for rule in (commit.threshold(0.5), commit.factor(1.0), commit.entropy_bound(1.0)):
        assert quotas(rule, [32], 2) == [commit.NO_LIMIT] * 2
