"""`python -m benchmarks.profile` on a small model: shares that add up, of the right operators."""

import pytest

from benchmarks import profile

MODES = ("no cache", "dual", "dual, recent, 8-bit")


@pytest.fixture(scope="module")
def found():
    arguments = ["--width", "64", "--canvas", "256", "--threads", "1", "--no-save"]
    return profile.main([*arguments, "--modes", *MODES])


def test_shares_add_up(found):
    assert list(found) == list(MODES)
    for row in found.values():
        shares = [row[name] for name in (*profile.PARTS, "planning", "Python and the rest")]
        assert all(0 < share < 1 for share in shares) and sum(shares) == pytest.approx(1)
        assert 0 < row["refreshes"] < 1


def test_modes_differ_in_what_they_compute_and_not_in_their_forwards(found):
    forwards, positions = ([row[n] for row in found.values()] for n in ("forwards", "positions"))
    assert len(set(forwards)) == 1
    assert positions == sorted(positions, reverse=True) and len(set(positions)) == 3


def test_no_operator_of_a_pass_is_forgotten():
    """A new one has to be put somewhere."""
    from dpad.decode.graphs import OPERATORS

    known = {name for names in profile.PARTS.values() for name in names}
    assert set(OPERATORS) <= known
