"""ASGI middleware: who may ask, how much, and what became of it."""

import secrets
from collections.abc import Collection, Iterable

import anyio
from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dpad.serving.errors import Refused, response_to
from dpad.values import about, entries

PUBLIC = ("/health", "/ready")  # without a key: load balancers ask
BODY_SECONDS = 60  # in which a body must have come


class Watch:
    """Counts responses by their status in `responses`; one that was not finished is a 499."""

    def __init__(self, app: ASGIApp, responses: Counter) -> None:
        self._app, self._responses = app, responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, complete = 500, False

        async def watched(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            code = status if complete else 499
            self._responses.labels(str(code)).inc()


def checked_keys(name: str, keys: Iterable[str]) -> list[str]:
    """The keys as a list; ValueError, which does not show it, for one that is empty or cannot be
    sent in a header; TypeError where they are no list.
    """
    found = list(entries(name, keys, "a list of keys"))
    for number, key in enumerate(found):
        # Printable leaves out control characters and lone surrogates, but not the space.
        if not (isinstance(key, str) and key and key.isprintable() and " " not in key):
            told = "expected at least one character, and neither spaces nor control characters"
            raise about(name)(f"{name}: key {number} of {len(found)}: {told}")
    return found


class KeyCheck:
    """Answers 401 to whoever does not know a key, before the body is read."""

    def __init__(self, app: ASGIApp, keys: Collection[str]) -> None:
        self._app, self._keys = app, [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        closed = scope["type"] in ("http", "websocket") and scope["path"] not in PUBLIC
        if self._keys and closed and not self._known(scope):
            told = "wrong or missing API key: expected 'Authorization: Bearer KEY'"
            await response_to(Refused(401, told))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, key = given.partition(b" ")
        # Each comparison takes the same time, wherever the first difference is.
        return kind.lower() == b"bearer" and any(
            [secrets.compare_digest(key, known) for known in self._keys]
        )


class HostCheck:
    """Answers 400 to a Host header that is none of `hosts`; "*.x" stands for all that end so."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, [host.lower() for host in hosts]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            name, colon, port = host.rpartition(":")
            if not self._known(name if colon and port.isdigit() else host):
                told = f"Host = {host[:100]!r}: expected {' or '.join(self._hosts)}"
                await response_to(Refused(400, told))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _known(self, name: str) -> bool:
        return any(name == h or (h[:1] == "*" and name.endswith(h[1:])) for h in self._hosts)


class BodyLimit:
    """Answers 413 to bodies of more than `size` bytes, at their header where it says so."""

    def __init__(self, app: ASGIApp, size: int) -> None:
        self._app, self._size = app, size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if len(told) > 18 or int(told) > self._size:  # the server has checked that it is a number
            await response_to(self._refusal())(scope, receive, send)
            return
        seen, complete = 0, False

        async def counted() -> Message:
            nonlocal seen, complete
            if complete:
                return await receive()
            with anyio.move_on_after(BODY_SECONDS) as limit:
                message = await receive()
            if limit.cancelled_caught:
                raise Refused(408, f"the body has not come in {BODY_SECONDS} s")
            seen += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if seen > self._size:
                raise self._refusal()
            return message

        await self._app(scope, counted, send)

    def _refusal(self) -> Refused:
        return Refused(413, f"the body has more than {self._size} bytes")
