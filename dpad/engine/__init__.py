"""Continuous batching: requests join and leave a running decoder.

`Engine` holds a model's buffers and a queue; `Request` is one prompt on its way. torch only: no
network, no processes.
"""

from dpad.engine.engine import Engine
from dpad.engine.events import Block, Draft, End, Timings, Usage
from dpad.engine.request import Request, RequestCancelled
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
