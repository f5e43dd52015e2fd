"""The application on a socket: uvicorn, and what signals do."""

import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from dpad.engine import Engine

LOOPBACK = ("127.0.0.1", "::1", "localhost")
GRACE = 5  # seconds for the last answers to be read


class Server(uvicorn.Server):
    """Runs until a signal comes; then it drains.

    At the first SIGTERM or SIGINT new requests get 503 while those that the engine has may finish,
    for `seconds` at most; then the server exits. A second signal does not wait. `on_ready`, if
    given, is called with the address (a URL) once requests are answered.
    """

    def __init__(
        self,
        app: FastAPI,
        engine: Engine,
        host: str,
        port: int,
        seconds: float,
        log_level: str = "info",
        on_ready: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host,
                port,
                log_level=log_level,
                timeout_graceful_shutdown=GRACE,
                server_header=False,
            )
        )
        self._engine, self._seconds, self._leaving = engine, seconds, False
        self._host, self._on_ready = host, on_ready

    @property
    def url(self) -> str:
        """Where it listens."""
        port = self.servers[0].sockets[0].getsockname()[1]
        return (
            f"http://[{self._host}]:{port}" if ":" in self._host else f"http://{self._host}:{port}"
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn."""
        try:
            await super().startup(sockets)
        except SystemExit as error:  # uvicorn's, which has logged why
            told = f"--host {self._host}, --port {self.config.port}: cannot listen there"
            raise ValueError(told) from error
        if self.started and self._on_ready is not None:
            self._on_ready(self.url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn for a signal."""
        if self._leaving:
            super().handle_exit(sig, frame)
            return
        self._leaving = True
        threading.Thread(target=self._leave, args=(sig, frame), daemon=True).start()

    def _leave(self, sig: int, frame: FrameType | None) -> None:
        try:
            self._engine.drain(self._seconds)
            self._engine.close()
        finally:
            super().handle_exit(sig, frame)
