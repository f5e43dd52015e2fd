"""The options that say how a model is loaded and how it decodes, for every command that does."""

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpad import threads
from dpad.cli.common import quiet_loading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dpad.generation.config import DPadGenerationConfig
    from dpad.models.hf.interface import NativeModel

Model = Annotated[
    str, typer.Argument(help='Repository or folder; "demo" is the shipped tiny model.')
]

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")  # of these JSON takes some

Load = Callable[[], tuple["NativeModel", "PreTrainedTokenizerBase"]]


def option(text: str, panel: str, *names: str, **more: Any) -> Any:
    """A `typer.Option` with its help and where that stands."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def configured(
    preset: Annotated[
        str | None, option("Published settings by name, model/task.", "Decoding")
    ] = None,
    max_new_tokens: Annotated[int | None, option("Length of the canvas.", "Decoding")] = None,
    block_length: Annotated[int | None, option("Tokens decoded together.", "Decoding")] = None,
    threshold: Annotated[
        float | None, option("Commit tokens at least this probable.", "Decoding")
    ] = None,
    factor: Annotated[float | None, option("Commit by Fast-dLLM's factor.", "Decoding")] = None,
    steps: Annotated[int | None, option("Fixed number of steps.", "Decoding")] = None,
    temperature: Annotated[float | None, option("Gumbel noise; 0: greedy.", "Decoding")] = None,
    cache: Annotated[str | None, option("none, prefix or dual.", "Decoding")] = None,
    early_stop: Annotated[
        bool | None, option("Stop behind the block that holds the end.", "Decoding")
    ] = None,
    seed: Annotated[int | None, option("Of all random draws.", "Decoding")] = None,
    more: Annotated[
        list[str] | None,
        option("Any other option of the configuration: name=value.", "Decoding", "--set"),
    ] = None,
    suffix_kind: Annotated[
        str | None, option("gaussian, uniform, window, all or none.", "Suffix")
    ] = None,
    suffix_window: Annotated[int | None, option("Candidate positions.", "Suffix")] = None,
    suffix_decay: Annotated[float | None, option("k of the gaussian.", "Suffix")] = None,
    suffix_scale: Annotated[float | None, option("a of the gaussian.", "Suffix")] = None,
    suffix_density: Annotated[float | None, option("Share of the window.", "Suffix")] = None,
    suffix_count: Annotated[float | None, option("Number of positions.", "Suffix")] = None,
    suffix_near: Annotated[int | None, option("Nearest, always kept.", "Suffix")] = None,
) -> "DPadGenerationConfig":
    """The `DPadGenerationConfig` that these options ask for."""
    import dpad

    fields: dict[str, Any] = {
        "kind": suffix_kind,
        "window": suffix_window,
        "decay": suffix_decay,
        "scale": suffix_scale,
        "density": suffix_density,
        "count": suffix_count,
        "near": suffix_near,
    }
    suffix = {name: value for name, value in fields.items() if value is not None}
    options = {
        "max_new_tokens": max_new_tokens,
        "block_length": block_length,
        "confidence_threshold": threshold,
        "factor": factor,
        "steps": steps,
        "temperature": temperature,
        "cache": cache,
        "early_stop": early_stop,
        "seed": seed,
        "suffix": dpad.Suffix(**suffix) if suffix else None,
    }
    options = {n: v for n, v in options.items() if v is not None}
    return configuration(preset, {**options, **assignments(more or ())})


def loader(
    model: Model,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16; auto: the checkpoint's.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda ...; auto: a GPU if any.")] = "auto",
    cpu_threads: Annotated[
        int | None,
        typer.Option("--threads", help="CPU threads; default: OMP_NUM_THREADS, or idle cores."),
    ] = None,
) -> Load:
    """A function that gives (model, tokenizer) by these options."""

    def load() -> tuple["NativeModel", "PreTrainedTokenizerBase"]:
        from dpad.loading import load

        quiet_loading(always=model == "demo")
        threads.use(cpu_threads)
        return load(model, dtype, device)

    return load


def asks(**makers: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of functions, and what these make of them.

    Args:
        makers: name of a parameter of the command -> function whose parameters take its place.
            They are called in this order. An option that several have is one option.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parts = {name: inspect.signature(maker).parameters for name, maker in makers.items()}
        own = {n: p for n, p in inspect.signature(command).parameters.items() if n not in makers}
        merged: dict[str, inspect.Parameter] = {}
        for parameters in (own, *parts.values()):
            for name, parameter in parameters.items():
                merged.setdefault(name, parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(command)
        def run(**given: Any) -> None:
            made = {n: maker(**{p: given[p] for p in parts[n]}) for n, maker in makers.items()}
            return command(**made, **{name: given[name] for name in own})

        setattr(run, "__signature__", inspect.Signature(list(merged.values())))  # noqa: B010
        run.__annotations__ = {name: parameter.annotation for name, parameter in merged.items()}
        return run

    return decorate


def assignments(words: Iterable[str]) -> dict[str, Any]:
    """``name=value`` words as a dict; values are JSON or numbers where they can be, else text."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--set {word}: expected name=value")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = float(value) if _NUMBER.fullmatch(value) else value
        except (ValueError, RecursionError) as error:  # of thousands of digits, or brackets
            raise ValueError(f"--set {name}={value[:40]}...: not read ({error})") from error
    return found


def configuration(preset: str | None, options: dict[str, Any]) -> "DPadGenerationConfig":
    """`DPadGenerationConfig` of a preset's values under `options`; ValueError if unknown."""
    from dpad.generation import presets
    from dpad.generation.config import DPadGenerationConfig

    if preset is None:
        return DPadGenerationConfig(**options)
    if preset not in presets.names():
        known = ", ".join(presets.names())
        raise ValueError(f"--preset {preset}: expected one of {known}")
    return presets.get(preset, **options)
