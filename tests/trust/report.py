"""What a check of this folder gives back: figures, failures, and the command that repeats it."""

import time
from dataclasses import dataclass, field


@dataclass
class Report:
    """Figures of one run of a check. `failures` are (seed, text): the seed alone repeats it."""

    check: str
    figures: dict = field(default_factory=dict)
    failures: list = field(default_factory=list)
    begun: float = field(default_factory=time.perf_counter)

    def add(self, figure, number=1):
        self.figures[figure] = self.figures.get(figure, 0) + number

    def fail(self, seed, text):
        self.failures.append((seed, text))

    def __str__(self):
        numbers = ", ".join(f"{value:,} {name}" for name, value in self.figures.items())
        seconds = time.perf_counter() - self.begun
        lines = [f"{self.check}: {numbers}; {len(self.failures)} failures ({seconds:.0f} s)"]
        for seed, text in self.failures[:10]:
            lines.append(f"  python -m tests.trust {self.check} --seed {seed} --cases 1: {text}")
        return "\n".join(lines)
