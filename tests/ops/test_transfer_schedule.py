"""transfer_schedule: LLaDA's linear schedule."""

from op_helpers import assert_same_bits, call, twin


def test_linear_schedules():
    """The remainder goes to the first steps, nothing is lost."""
    assert call("transfer_schedule", {"masks": 32, "steps": 5}).tolist() == [7, 7, 6, 6, 6]
    assert call("transfer_schedule", {"masks": 2, "steps": 4}).tolist() == [1, 1, 0, 0]
    for masks in range(40):
        for steps in range(1, 12):
            args = {"masks": masks, "steps": steps}
            quota = call("transfer_schedule", args)
            assert_same_bits(quota, twin("transfer_schedule", args))
            assert quota.sum() == masks and quota.max() - quota.min() <= 1
