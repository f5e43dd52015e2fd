"""How many CPU threads to use, and whether a team of them spins on cores that others need.

Threads of an OpenMP team that wait for work spin on their core for a while. Where other processes
want that core, each parallel region then waits for its turn.
"""

import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

from dpad.values import whole

POLICY = "OMP_WAIT_POLICY"  # read once, when torch is imported
MOST = 1024  # threads, unless there are more CPUs
SLOWER = 1.5  # how much slower a team may be than one thread before that is a warning
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def _cpus() -> int:
    return os.cpu_count() or 1


def available() -> int:
    """CPUs that this process may use: its affinity, and the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cpus()
    try:
        quota, period = _QUOTA.read_text().split()
        count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or no limit
        pass
    return count


def sane(given: int | None = None) -> int:
    """Threads to use: `given`, else what OMP_NUM_THREADS says, else the CPUs that are idle.

    Raises ValueError for a number below 1, or one that no machine has: teams of tens of thousands
    end the process.
    """
    check = whole(1, max(MOST, _cpus()))
    if given is not None:
        return check("threads", given)
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if first.isdigit() and int(first):
        return check("OMP_NUM_THREADS", int(first))
    idle = _cpus() - (os.getloadavg()[0] if hasattr(os, "getloadavg") else 0)
    return max(1, min(available(), round(idle)))


def use(given: int | None = None) -> int:
    """Sets torch's threads to `sane(given)`, and returns the number."""
    import torch

    count = sane(given)
    torch.set_num_threads(count)
    return count


def wait_passively() -> None:
    """Makes waiting threads sleep, unless the user has chosen; before torch is imported."""
    if POLICY not in os.environ:
        os.environ[POLICY] = "passive"


def compare(rounds: int = 7, calls: int = 40) -> dict[str, float]:
    """Seconds of a call with one thread, and with a team, and the team's size.

    The call is an element-wise operation of about 0.2 ms. Medians of rounds in turn.
    """
    import torch

    team, values = torch.get_num_threads(), torch.rand(2**18)
    seconds: dict[int, list[float]] = {1: [], team: []}
    for _ in range(rounds):
        for count, found in seconds.items():
            torch.set_num_threads(count)
            torch.exp(values)
            begun = time.perf_counter()
            for _ in range(calls):
                torch.exp(values)
            found.append((time.perf_counter() - begun) / calls)
    torch.set_num_threads(team)
    return {
        "team": team,
        "one": statistics.median(seconds[1]),
        "all": statistics.median(seconds[team]),
    }


def advice(found: Mapping[str, float]) -> str | None:
    """What to set where a team is slower than one thread, or None; `found`: of `compare`."""
    if found["team"] == 1 or found["all"] <= SLOWER * found["one"]:
        return None
    return (
        f"{found['team']} threads are {found['all'] / found['one']:.1f} times slower than one: "
        "other programs use these cores, and waiting threads spin on them. Set "
        f"{POLICY}=passive before Python starts, or OMP_NUM_THREADS to the cores you have"
    )
