"""Arguments of suffix tables, for the tests of suffix_table and suffix_sample."""

from hypothesis import strategies as st

KINDS = ("none", "all", "gaussian", "uniform", "window")
ALWAYS = 2**32  # the threshold of a position that is always kept


def table_args(kind="gaussian", window=64, decay=3.0, scale=1.6, count=0.0, near=0, grid="repo"):
    names = ("kind", "grid", "window", "decay", "scale", "count", "near")
    return dict(zip(names, (kind, grid, window, decay, scale, count, near), strict=True))


TABLES = st.builds(
    table_args,
    kind=st.sampled_from(KINDS),
    window=st.integers(1, 90),
    decay=st.sampled_from((0.1, 1.0, 3.0, 4.0, 11.5)),
    scale=st.sampled_from((0.0, 0.3, 1.6, 2.3, 40.0, -1.0)),
    count=st.integers(0, 90).map(float),
    near=st.sampled_from((0, 0, 1, 5, 100)),
    grid=st.sampled_from(("repo", "paper")),
).filter(lambda t: t["scale"] >= 0 or t["count"] <= t["window"])
