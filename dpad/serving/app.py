"""The ASGI application: OpenAI's routes around a `dpad.Engine`."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from transformers import PreTrainedTokenizerBase

from dpad.engine import Engine
from dpad.generation.config import DPadGenerationConfig
from dpad.serving.answers import Form, event
from dpad.serving.errors import Refused, add_handlers, body_of
from dpad.serving.guards import BodyLimit, HostCheck, KeyCheck, Watch, checked_keys
from dpad.serving.limits import Limits
from dpad.serving.metrics import Metrics
from dpad.serving.schema import ChatRequest, CompletionRequest
from dpad.serving.service import Service
from dpad.serving.work import Work

GRACE = 10  # seconds beyond a request's deadline in which its stream must be read


def create_app(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    api_keys: Collection[str] = (),
    limits: Limits | None = None,
    hosts: Iterable[str] | None = None,
    generation_config: DPadGenerationConfig | None = None,
) -> FastAPI:
    """An ASGI application that answers with an engine.

    Args:
        engine: a `dpad.Engine`, started.
        tokenizer: of its model.
        name: under which clients ask for the model.
        api_keys: who knows one may ask; no key: everybody. Each is a text without spaces.
        limits: `Limits` of a request.
        hosts: values of the Host header that are answered; None: all.
        generation_config: a `DPadGenerationConfig`: what holds where a body says nothing.

    Raises:
        ValueError, TypeError: an empty key, or one that cannot be sent.
    """
    limits, keys = limits or Limits(), checked_keys("api_keys", api_keys)
    metrics = Metrics(engine)
    guards = [Middleware(Watch, responses=metrics.responses), Middleware(KeyCheck, keys=keys)]
    guards.append(Middleware(BodyLimit, size=limits.body))
    if hosts is not None:
        guards.append(Middleware(HostCheck, hosts=list(hosts)))
    app = FastAPI(title="dpad", middleware=guards)
    app.state.service = service = Service(engine, tokenizer, name, limits, generation_config)
    app.state.metrics = metrics
    add_handlers(app)
    _add_state_routes(app, engine)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await _answer(service, body, request)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await _answer(service, body, request)

    model = {"id": name, "object": "model", "created": 0, "owned_by": "dpad"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{model_name:path}")
    async def one_model(model_name: str) -> dict[str, Any]:
        service.check_model(model_name)
        return model

    return app


def _add_state_routes(app: FastAPI, engine: Engine) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """200 while the engine works, ending requests included."""
        if engine.broken:
            raise Refused(503, "the engine has failed")
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """200 while new requests are taken."""
        if not engine.accepts:
            raise Refused(503, "the server is shutting down")
        return {"status": "ready"}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _answer(
    service: Service, body: CompletionRequest | ChatRequest, request: Request
) -> Response:
    """The response to a body that is well formed."""
    work = await service.submit(body)
    watch = request.app.state.metrics
    form = Form(isinstance(body, ChatRequest), service.name, work)
    if body.stream:
        return _EventStream(form.chunks(body.stream_options), work, watch, service.limits.seconds)
    texts = asyncio.ensure_future(work.texts())
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((texts, gone), return_when=asyncio.FIRST_COMPLETED)
        if not texts.done():
            raise Refused(499, "the client closed the connection")
        return JSONResponse(form.whole(await texts))
    finally:
        texts.cancel()
        gone.cancel()
        _finish(work, watch)


async def _disconnected(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _finish(work: Work, metrics: Metrics) -> None:
    """However a response ended: its requests end too, and are counted."""
    work.cancel()
    for answer in work.answers:
        if answer.end is not None:
            metrics.end(answer.end)


class _EventStream(StreamingResponse):
    """A stream that ends with its client, or when that does not read it in time."""

    media_type = "text/event-stream"

    def __init__(
        self, chunks: AsyncIterator[bytes], work: Work, metrics: Metrics, seconds: float
    ) -> None:
        super().__init__(self._told(chunks), headers={"Cache-Control": "no-cache"})
        self._work, self._metrics, self._seconds = work, metrics, seconds + GRACE

    @staticmethod
    async def _told(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The chunks; an error on the way is the last one."""
        try:
            async for chunk in chunks:
                yield chunk
        except Refused as error:
            yield event(body_of(error))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # Beyond that nobody reads; the server closes a response that did not end.
            with anyio.move_on_after(self._seconds):
                await super().__call__(scope, receive, send)
        finally:
            _finish(self._work, self._metrics)
