"""Measurements of passes of a whole model: launches, refreshes, a mixed pass (`measurements`)."""

from benchmarks.gpu.floor import pass_floor
from benchmarks.gpu.measure_kernels import profiled, tried
from benchmarks.gpu.models import BLOCK
from benchmarks.gpu.passes import Step
from benchmarks.gpu.plain import PlainStep
from benchmarks.gpu.timing import seconds
from dpad.decode.cache import KVArena


class Passes:
    """Passes of one model of `shape`, each with an arena of its own."""

    def __init__(self, adapter, shape, limits, repeats):
        self.adapter, self.shape, self.limits = adapter, shape, limits
        self.device, self.repeats = adapter.device, repeats

    def step(self, batch, keys, rows):
        arena = KVArena()
        arena.reserve(self.adapter, batch * keys)
        step = Step(self.adapter, arena, batch, keys, rows)
        step()
        return step

    def time(self, function):
        return seconds(function, self.repeats, self.device)

    def floor(self, groups, logit_rows):
        return pass_floor(self.shape, self.limits, groups, logit_rows)

    def launches(self, keys):
        """1: the published step, eager: time, kernels, waits; ours beside it."""
        step = self.step(1, keys, BLOCK)
        plain, graph = PlainStep(step), step.graph()
        plain.refresh()
        functions = {"plain torch": plain, "dpad, eager": step, "dpad, graph": graph}
        return {
            "keys": keys,
            "seconds": {name: self.time(function) for name, function in functions.items()},
            "profiled": {n: tried(profiled, f, self.device) for n, f in functions.items()},
        }

    def refresh(self, keys):
        """6: a pass over all slots, eager and as a graph, and the partner's."""
        step = self.step(1, keys, keys)
        plain = PlainStep(step)
        return {
            "keys": keys,
            "floor": self.floor([(1, keys, keys)], BLOCK),
            "seconds": {
                "eager": self.time(step),
                "graph": self.time(step.graph()),
                "plain torch": self.time(plain.refresh),
            },
        }

    def mixed(self, keys, others=3):
        """8: one sequence's refresh with the cached steps of three others, and both apart."""
        groups = {
            "mixed": [(1, keys, keys), (others, BLOCK, keys)],
            "refresh": [(1, keys, keys)],
            "steps": [(others, BLOCK, keys)],
        }
        passes = {
            "mixed": self.step(1 + others, keys, [keys] + [BLOCK] * others),
            "refresh": self.step(1, keys, keys),
            "steps": self.step(others, keys, BLOCK),
        }
        floors = {
            name: self.floor(group, BLOCK * sum(n for n, _, _ in group))
            for name, group in groups.items()
        }
        return {
            "keys": keys,
            "floor": floors,
            "seconds": {name: self.time(step) for name, step in passes.items()},
            "graph": {name: self.time(step.graph()) for name, step in passes.items()},
        }


def run(found, passes, small, wanted):
    """The measurements of `wanted`, 1, 6 and 8 of them."""
    steps, refreshes, mixed = (
        ((48,), (48,), 48) if small else ((1024, 4096), (512, 1024, 2048), 1024)
    )
    plan = {
        1: [(f"cached step, {n} keys: launches", passes.launches, n) for n in steps],
        6: [(f"refresh of {n} rows", passes.refresh, n) for n in refreshes],
        8: [(f"mixed pass, {mixed} + 3 x {BLOCK} rows", passes.mixed, mixed)],
    }
    for number in wanted:
        for name, function, keys in plan[number]:
            found.measurement = number
            found.case(name, lambda f=function, n=keys: f(n), least=10)
