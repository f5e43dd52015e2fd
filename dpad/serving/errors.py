"""Errors in OpenAI's form: ``{"error": {"message", "type", "param", "code"}}``."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from dpad.engine import EngineClosed, QueueFull, RequestCancelled
from dpad.values import options_of

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


def response_to(error: Refused, more: Mapping[str, str] | None = None) -> Response:
    """The response to a `Refused`, with `more` headers."""
    headers = dict(more or {})
    if error.status_code in RETRY:
        headers["Retry-After"] = RETRY[error.status_code]
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
        told = error if known else Refused(error.status_code, str(error.detail))
        return response_to(told, error.headers)  # Allow, of a 405

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        kind = request.headers.get("content-type", "")
        return response_to(_invalid(error.errors(), error.body, kind))

    @app.exception_handler(Exception)
    async def failed(_: object, error: Exception) -> Response:
        return response_to(refusal(error))


def _invalid(problems: Sequence[Mapping[str, Any]], body: Any, kind: str) -> Refused:
    """What is wrong with the first bad field of a body; `kind`: its Content-Type.

    A field of several types has problems with each of them: the first of each is told.
    """
    first = problems[0]
    if first["type"] == "json_invalid":
        return Refused(400, f"the body is not JSON: {first.get('ctx', {}).get('error', '')}")
    if isinstance(body, bytes):  # nobody has read it
        return Refused(400, f"Content-Type = {kind[:100]!r}: expected application/json")
    name, _ = _place(first, body)
    if first["type"] == "extra_forbidden":
        return Refused(400, f"unknown or unsupported field {name!r}", name, "unknown_field")
    told: dict[str, str] = {}  # type -> what it says
    for problem in problems:
        place, option = _place(problem, body)
        if problem["loc"][:2] == first["loc"][:2]:
            said = problem["msg"].removeprefix("Value error, ")
            told.setdefault(option, f"{place}: {said}" if place else said)
    message = "; or ".join(dict.fromkeys(told.values()))
    if name is None:  # a check of several fields
        given = options_of(first.get("ctx", {}).get("error"))
        name = next((n for n in given if n in body), None)
    return Refused(400, message, name)


def _place(problem: Mapping[str, Any], body: Any) -> tuple[str | None, str]:
    """(the field in its path, which of the field's types the problem is of).

    pydantic's path holds the types that were tried, too; these are no places in the body.
    """
    parts, option = [], ""
    for part in problem["loc"][1:]:
        listed = isinstance(body, list) and isinstance(part, int)
        missing = problem["type"] == "missing" and part == problem["loc"][-1]
        if listed or missing or (isinstance(body, dict) and part in body):
            parts.append(str(part))
            body = None if missing else body[part]
        else:
            option = option or str(part)
    return ".".join(parts)[:200] or None, option
