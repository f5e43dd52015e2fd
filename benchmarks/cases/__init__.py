"""Comparisons of operators: our call, its stock peers, what both have to give, and bytes moved.

`benchmarks.ops` times them on the CPU, `benchmarks.gpu` on a GPU: a maker of `MAKERS` and its sizes
in a table of the program are a measurement. Of peers that are named "something: how" the fastest
counts as that something.
"""

from benchmarks.cases import attention, layers, routing, sampling
from benchmarks.cases.case import Case, in_a_line, short

__all__ = ["MAKERS", "Case", "in_a_line", "short"]

MAKERS = {
    maker.__name__: maker
    for maker in (
        attention.attention,
        *(layers.norm, layers.swiglu, layers.linear, layers.rope, layers.gather),
        *(routing.route, routing.combine),
        *(sampling.confidence, sampling.commits),
    )
}
