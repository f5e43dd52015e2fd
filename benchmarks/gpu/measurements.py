"""Eight measurements that confirm or end an idea, each with what was expected and what follows.

    python -m benchmarks.gpu.measurements --json measurements.json
    python -m benchmarks.gpu.measurements --json measurements.json --only 2 3 5

Every record names its measurement; `answers` of the file holds what `benchmarks.gpu.answers` makes
of them: the figures, the expectation, whether it holds, the decision.
"""

import gc
import sys

import torch

from benchmarks.gpu import measure_kernels, measure_passes, measure_products, models, results
from benchmarks.gpu.answers import NUMBERS, answers
from dpad.models.adapter import find_adapter

# Of single kernels, then of a whole model; what decides most comes first.
KERNELS = {
    3: measure_kernels.attention,
    2: measure_products.skinny,
    5: measure_kernels.sampler,
    4: measure_kernels.gaps,
    7: measure_products.narrow,
}
PASSES = (1, 6, 8)


class Measured(results.Results):
    """Results whose records name the measurement that they belong to, with what follows."""

    measurement = None

    def _run(self, name, function, least):
        return {"measurement": self.measurement, **super()._run(name, function, least)}

    def content(self):
        return {**super().content(), "answers": answers(self.cases, self.limits)}


def line(record):
    """A record in words."""
    hidden = ("took", "name", "sizes", "bytes", "unavailable")
    figures = {k: v for k, v in record.items() if k not in hidden}
    return f"{record['name']}: {figures}"


def whole_model(found, options, wanted):
    """Measurements with a model of LLaDA-8B's shape."""
    name, shape = next(iter(models.shapes(options.small).items()))
    dtype = models.dtype_of(options.small)
    found.measurement = wanted[0]
    make = lambda: find_adapter(models.build(shape, options.device, dtype, 4096))  # noqa: E731
    adapter = found.made(f"{name}, model", make)
    if adapter is not None:
        repeats = max(2, options.repeats // 5)
        passes = measure_passes.Passes(adapter, shape, found.limits, repeats)
        measure_passes.run(found, passes, options.small, wanted)


def main(arguments=None):
    options = results.parser("measurements", __doc__)
    options.add_argument("--only", type=int, nargs="+", choices=NUMBERS, default=list(NUMBERS))
    options = results.parse(options, arguments)
    torch.manual_seed(0)
    found = Measured(options, line)
    with torch.no_grad():
        for number, measure in KERNELS.items():
            if number in options.only:
                found.measurement = number
                measure(found, options.small, options.repeats)
        gc.collect()
        wanted = [number for number in PASSES if number in options.only]
        if wanted:
            whole_model(found, options, wanted)
    return found.status


if __name__ == "__main__":
    sys.exit(main())
