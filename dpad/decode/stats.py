"""What a decoder has done so far, and how long the host took."""

import time
from dataclasses import dataclass, field


@dataclass
class Stats:
    """What was done so far: `seconds` of the host in "plan", "forward" and "commit", `steps`,
    `passes`, `positions` (rows computed in them), `replayed` passes (a graph's), and `shared`
    positions, whose K/V came from another sequence.
    """

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("plan", "forward", "commit"), 0.0)
    )
    steps: int = 0
    passes: int = 0
    positions: int = 0
    replayed: int = 0
    shared: int = 0
    _at: float = 0.0

    def start(self) -> None:
        """From now on time is counted."""
        self._at = time.perf_counter()

    def lap(self, name: str) -> None:
        """Counts the time since the last lap, or since the start."""
        now = time.perf_counter()
        self.seconds[name] += now - self._at
        self._at = now
