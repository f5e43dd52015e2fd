"""Requests that wait for a place: the most urgent first, and nobody for ever."""

from __future__ import annotations

from collections.abc import Iterator
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
        self._requests: list[tuple[Request, int]] = []  # (request, step at which it came)

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return (request for request, _ in self._requests)

    @property
    def full(self) -> bool:
        return len(self._requests) >= self.size

    def put(self, request: Request, step: int) -> None:
        """Adds a request that comes at a step of the engine."""
        self._requests.append((request, step))

    def first(self, step: int) -> Request | None:
        """The request to admit next, or None; it stays."""
        if not self._requests:
            return None
        # max keeps the first of equal ones; ages differ by whole steps, so no age decides alone.
        return max(self._requests, key=lambda e: e[0].priority * AGEING + step - e[1])[0]

    def remove(self, request: Request) -> None:
        self._requests = [e for e in self._requests if e[0] is not request]
