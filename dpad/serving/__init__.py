"""An OpenAI-compatible server around `dpad.Engine` (extra ``serve``).

`create_app` makes the ASGI application, for any ASGI server; ``dpad serve`` runs it with uvicorn.
FastAPI is imported when `create_app` is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpad.serving.app import create_app
    from dpad.serving.limits import Limits

__all__ = ["Limits", "create_app"]


def __getattr__(name: str) -> Any:
    if name == "create_app":
        from dpad.serving.app import create_app

        return create_app
    if name == "Limits":
        from dpad.serving.limits import Limits

        return Limits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
