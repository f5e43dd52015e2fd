"""Children that were forked after a team of threads had run.

The OpenMP runtime keeps the threads of a parallel region for the next one. A forked child has none
of them, and its first region of several threads waits for them for ever: so it is refused.
"""

import os

import torch


class _Process:
    """Whether a team has run here, and whether one had run in the process that this one is of."""

    ran = forked = False


def _after_fork() -> None:
    _Process.forked = _Process.forked or _Process.ran


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def check(device: torch.device) -> None:
    """Before work on a device: RuntimeError where it would wait for threads that are not there.

    It knows of dpad's own work only; a team that other code has used goes unnoticed.
    """
    if device.type != "cpu" or torch.get_num_threads() == 1:
        return
    if _Process.forked:
        raise RuntimeError(
            "this process was forked from one that had already decoded with several threads, which "
            "it does not have: start workers by the method 'spawn', fork before anything is "
            "computed, or call torch.set_num_threads(1) in the child first"
        )
    _Process.ran = True
