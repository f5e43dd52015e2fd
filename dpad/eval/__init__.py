"""dpad's models in EleutherAI's lm-evaluation-harness (lm-eval).

``python -m dpad.eval ...`` is the harness's own command line with a model named "dpad" in it;
`dpad.eval.DPadLM(model, tokenizer)` goes into ``lm_eval.simple_evaluate(model=...)``. lm-eval is
imported when one of them is used.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpad.eval.harness import DPadLM

__all__ = ["DPadLM", "main", "register"]

NAME = "dpad"


def __getattr__(name: str) -> Any:
    if name == "DPadLM":
        require_harness()
        from dpad.eval.harness import DPadLM

        return DPadLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def require_harness() -> None:
    """Raises ModuleNotFoundError, naming the cure, where lm-eval is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise ModuleNotFoundError(
            "dpad.eval needs lm-eval. Type: pip install 'lm-eval>=0.4.13,<0.5'", name="lm_eval"
        ) from error


def register() -> None:
    """Makes "dpad" a model of the harness, for ``--model dpad`` and ``simple_evaluate("dpad")``."""
    require_harness()
    import lm_eval.models  # noqa: F401  fills the registry
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target="dpad.eval.harness:DPadLM")


def main(arguments: Sequence[str] | None = None) -> None:
    """The harness's command line, after `register`; `arguments` default to the process's own."""
    register()
    from lm_eval.__main__ import cli_evaluate

    if arguments is not None:
        sys.argv = [sys.argv[0], *arguments]
    cli_evaluate()
