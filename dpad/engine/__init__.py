"""Continuous batching: requests join and leave a running decoder.

`Engine` holds a model's buffers and a queue; `Request` is one prompt on its way. torch only: no
network, no processes.
"""

from dpad.engine.engine import Engine
from dpad.engine.request import Block, Draft, End, Request, RequestCancelled, Timings, Usage
from dpad.engine.scheduler import EngineClosed, QueueFull

__all__ = [
    "Block",
    "Draft",
    "End",
    "Engine",
    "EngineClosed",
    "QueueFull",
    "Request",
    "RequestCancelled",
    "Timings",
    "Usage",
]
