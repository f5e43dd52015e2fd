"""Requests that wait for a place: the most urgent first, and nobody for ever."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpad.engine.request import Request

AGEING = 64  # steps of waiting that count as much as one unit of priority


class Waiting:
    """The queue of an engine, of up to `size` requests.

    The next one is that with the greatest priority, to which its age adds: a request that has
    waited `AGEING` steps longer goes before one whose priority is greater by 1. Equal ones go in
    the order in which they came.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        # (-urgency, number, request), the next one first. Ages grow alike, so what decides is the
        # step at which a request came; numbers keep equal ones in order.
        self._requests: list[tuple[float, int, Request]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return (request for _, _, request in tuple(self._requests))

    @property
    def full(self) -> bool:
        return len(self._requests) >= self.size

    def put(self, request: Request, step: int) -> None:
        """Adds a request that comes at a step of the engine."""
        insort(self._requests, (step - request.priority * AGEING, next(self._numbers), request))

    def first(self) -> Request | None:
        """The request to admit next, or None; it stays."""
        return self._requests[0][2] if self._requests else None

    def remove(self, request: Request) -> None:
        if self.first() is request:
            del self._requests[0]
        else:
            self._requests = [e for e in self._requests if e[2] is not request]
