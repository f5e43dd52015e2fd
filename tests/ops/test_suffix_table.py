"""suffix_table: integer thresholds, bit for bit the twin's, and their published sums."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import assert_same_bits, call, twin
from suffix_tables import ALWAYS, TABLES, table_args


@given(TABLES, st.integers(0, 120))
def test_tables_equal_the_twin(table, length):
    args = {**table, "length": length}
    assert_same_bits(call("suffix_table", args), twin("suffix_table", args))


@pytest.mark.parametrize(
    ("decay", "scale", "window", "expected"),  # the release's settings and their expected counts
    [(4, 2.0, 256, 64.1), (3, 2.3, 512, 195.8), (3, 1.6, 256, 68.1), (4, 1.6, 128, 25.7)],
)
def test_expected_counts_of_the_published_settings(decay, scale, window, expected):
    """sum of min(1, P(d)) over the window, DPad (arXiv 2508.14148) eq. 7."""
    args = {**table_args(decay=decay, scale=scale, window=window), "length": window}
    table = call("suffix_table", args)
    assert math.isclose(float(table.sum()) / ALWAYS, expected, abs_tol=0.06)
    assert (table.diff() <= 0).all()


def test_the_wanted_count_is_met():
    for window, count in ((64, 32), (256, 64), (128, 127), (100, 0), (100, 100)):
        args = {**table_args(window=window, scale=-1.0, count=count), "length": window}
        assert abs(float(call("suffix_table", args).sum()) / ALWAYS - count) < 1e-3
