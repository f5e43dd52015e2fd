"""Errors in OpenAI's form: ``{"error": {"message", "type", "param", "code"}}``."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from dpad.engine import EngineClosed, QueueFull, RequestCancelled

# Status -> (type, code), as OpenAI's server names them.
KINDS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", None),
    405: ("invalid_request_error", None),
    408: ("invalid_request_error", None),
    413: ("invalid_request_error", "body_too_large"),
    429: ("rate_limit_error", "queue_full"),
    499: ("invalid_request_error", "client_closed_request"),
    500: ("server_error", None),
    503: ("server_error", "unavailable"),
}
RETRY = {429: "1", 503: "5"}  # seconds, as Retry-After


class Refused(HTTPException):
    """A request that is answered with an error: status, a message, and the field it is about."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(status, message)
        self.param, self.code = param, code


def refusal(error: BaseException) -> Refused:
    """The `Refused` that an exception of the engine or of a check amounts to."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, QueueFull):
        return Refused(429, str(error))
    if isinstance(error, EngineClosed | RequestCancelled):
        return Refused(503, "the server is shutting down")
    if isinstance(error, TimeoutError):
        return Refused(503, "the request did not end within its deadline", code="timeout")
    # What is left was not the client's doing; its text may hold what is nobody's business.
    return Refused(500, f"the request failed: {type(error).__name__}")


def body_of(error: Refused) -> dict[str, Any]:
    """The JSON value that describes a `Refused`."""
    kind, code = KINDS.get(error.status_code, ("invalid_request_error", None))
    return {
        "error": {
            "message": error.detail,
            "type": kind,
            "param": error.param,
            "code": error.code or code,
        }
    }


def response_to(error: Refused) -> Response:
    """The response to a `Refused`."""
    headers = {"Retry-After": RETRY[error.status_code]} if error.status_code in RETRY else {}
    if error.status_code == 413:
        headers["Connection"] = "close"
    # ASCII: a message may quote a lone surrogate, which UTF-8 has no form for.
    content = json.dumps(body_of(error))
    return Response(content, error.status_code, headers, media_type="application/json")


def add_handlers(app: FastAPI) -> None:
    """Answers every error of a FastAPI application in OpenAI's form."""

    @app.exception_handler(HTTPException)
    async def http(_: object, error: HTTPException) -> Response:
        known = isinstance(error, Refused)
        return response_to(error if known else Refused(error.status_code, str(error.detail)))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: object, error: RequestValidationError) -> Response:
        return response_to(_of_field(error.errors()[0]))

    @app.exception_handler(Exception)
    async def failed(_: object, error: Exception) -> Response:
        return response_to(refusal(error))


def _of_field(problem: Mapping[str, Any]) -> Refused:
    """The first thing that is wrong with a body, by the name of its field."""
    if problem["type"] == "json_invalid":
        return Refused(400, f"the body is not JSON: {problem.get('ctx', {}).get('error', '')}")
    place = [str(part) for part in problem["loc"] if part != "body"]
    name = ".".join(place)[:200] or None
    if problem["type"] == "extra_forbidden":
        return Refused(400, f"unknown or unsupported field {name!r}", name, "unknown_field")
    message = problem["msg"] if name is None else f"{name}: {problem['msg']}"
    return Refused(400, message, name)
