"""A web page beside the API: ordinary decoding and dpad on the same prompt, as a race."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from fastapi import FastAPI

from dpad.generation.config import DPadGenerationConfig
from dpad.serving.service import Service

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
from pydantic import ValidationError

from dpad.generation.api import merge
from dpad.serving.errors import Refused
from dpad.serving.race import Side, ordinary, race
from dpad.serving.schema import ChatRequest, CompletionRequest

FRAME = 0.08  # seconds between two pictures
SECONDS = 120  # of a race at most
WAITING = 8  # races that may wait
DEFAULT = "default"
NUMBERS = ("max_tokens", "block_length", "threshold", "temperature", "seed", "window")
KINDS = (DEFAULT, "gaussian", "uniform", "window", "all", "none")
CACHES = (DEFAULT, "none", "prefix", "dual")
DEMO = ("by 3 forward from", "4185e")
WORDS = """Each token has the colour of the forward that committed it; under the pointer stand its
position, its forward and how sure the model was. Pale tokens may still change. The strip shows what
the last pass looked at. Both sides take turns, so that neither has more computing time."""


def add_page(app: FastAPI, path: str = "/page") -> FastAPI:
    """Adds the page to an application of `create_app`; returns it.

    Races run one at a time, on small engines of their own.
    """
    service = app.state.service
    font = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.mount_gradio_app(
        app, blocks(service), path, footer_links=[], theme=gr.themes.Default(**font)
    )


def blocks(service: Service) -> gr.Blocks:
    """The page of a `Service`."""
    with gr.Blocks(title=f"dpad: {service.name}", analytics_enabled=False) as page:
        gr.Markdown(f"## {service.name}\n{WORDS}")
        with gr.Row():
            given = DEMO if service.name == "demo" else ("", "")
            prompt = gr.Textbox(given[0], label="Prompt", lines=2, scale=4)
            prefill = gr.Textbox(given[1], label="Start of the answer", scale=2)
        fields = _fields()
        both = gr.Checkbox(True, label="Ordinary decoding beside it", elem_id="both")
        with gr.Row():
            begin = gr.Button("Decode", variant="primary")
            stop = gr.Button("Stop")
        result = gr.Markdown(elem_id="result")
        with gr.Row():
            panes = [gr.HTML(label=n, elem_id=n, container=True) for n in ("ordinary", "dpad")]

        def run(prompt: str, prefill: str, both: bool, *values: Any) -> Iterator[tuple[str, ...]]:
            named = dict(zip(fields, values, strict=True))
            yield from pictures(service, prompt, prefill, both, named)

        inputs = [prompt, prefill, both, *fields.values()]
        running = begin.click(run, inputs, [result, *panes], show_progress="hidden")
        stop.click(None, cancels=[running])
    return page.queue(max_size=WAITING)


def _fields() -> dict[str, Any]:
    """Name of a body's field -> its input; what is empty or "default" is not sent."""
    fields = {}

    def number(name: str, label: str, value: str = "") -> None:
        fields[name] = gr.Textbox(value, label=label, placeholder=DEFAULT, max_lines=1)

    with gr.Accordion("Options", open=False):
        with gr.Row():
            number("max_tokens", "Canvas (tokens)", "96")
            number("block_length", "Block length", "16")
            number("threshold", "Threshold")
            number("temperature", "Temperature")
            number("seed", "Seed", "0")
        with gr.Row():
            fields["kind"] = gr.Dropdown(KINDS, value=DEFAULT, label="Suffix")
            number("window", "Suffix window")
            fields["cache"] = gr.Dropdown(CACHES, value=DEFAULT, label="Cache")
            fields["early_stop"] = gr.Checkbox(True, label="Early stop")
    return fields


def number_of(name: str, text: str) -> float:
    """The number that a text says; raises `Refused`."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    raise Refused(400, f"{name}: {text[:40]!r} is no number", name)


def body_of(
    service: Service, prompt: str, prefill: str, fields: dict[str, Any]
) -> CompletionRequest | ChatRequest:
    """The body that the inputs amount to; raises `Refused` or ValidationError."""
    given = {n: v for n, v in fields.items() if v not in (None, "", DEFAULT)}
    given |= {n: number_of(n, given[n]) for n in NUMBERS if n in given}
    suffix = {n: given.pop(n) for n in ("kind", "window") if n in given}
    given |= {"model": service.name, **({"suffix": suffix} if suffix else {})}
    if getattr(service.tokenizer, "chat_template", None):
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": prefill}]
        body = ChatRequest(messages=turns, **given)
    else:
        body = CompletionRequest(prompt=prompt + prefill, **given)
    service.check(body)
    return body


def sides_of(service: Service, body: CompletionRequest | ChatRequest, both: bool) -> list[Side]:
    """The two `Side`s of a body, dpad's last; without `both` it is alone."""
    (ids,), config = service.prompts(body), service.config_of(body)
    model, tokenizer = service.engine.model, service.tokenizer
    options = {**body.generation_options(), "seed": body.seed or 0}
    plain = ordinary(merge(model, None, config, options)) | {"seed": body.seed or 0}
    wanted: list[tuple[str, DPadGenerationConfig | None, dict[str, Any]]]
    wanted = [("ordinary decoding", None, plain)] if both else []
    wanted.append(("dpad", config, options))
    return [Side(title, model, tokenizer, ids, base, more) for title, base, more in wanted]


def pictures(
    service: Service, prompt: str, prefill: str, both: bool, fields: dict[str, Any]
) -> Iterator[tuple[str, ...]]:
    """(result, ordinary, dpad) as texts, while the race goes on."""
    sides = []
    try:
        body = body_of(service, prompt, prefill, fields)
        sides += sides_of(service, body, both)
        shown = 0.0
        for _ in race(sides, SECONDS):
            if time.perf_counter() - shown >= FRAME:
                yield picture(sides)
                shown = time.perf_counter()
        yield picture(sides, ended=True)
    except (Refused, ValueError, TypeError, ArithmeticError) as error:  # ValidationError too
        raise gr.Error(told(error), print_exception=False) from error
    finally:
        for side in sides:
            side.close()


def told(error: Exception) -> str:
    """What an error says to whoever sits at the page."""
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return str(error.detail if isinstance(error, Refused) else error)


def picture(sides: list[Side], ended: bool = False) -> tuple[str, ...]:
    """What the page shows of the sides now."""
    panes = [f"<h3>{side.title}</h3>{side.html()}" for side in sides]
    return (verdict(sides) if ended else "", *([""] * (2 - len(sides))), *panes)


def verdict(sides: list[Side]) -> str:
    """Who was how much faster, in a sentence."""
    *others, ours = sides
    if not others or not ours.finished:
        return "" if ours.finished else f"not finished in {SECONDS} s"
    ratio = others[0].seconds / ours.seconds
    if others[0].finished:
        return f"**dpad was {ratio:.1f} times faster**"
    return f"**dpad was at least {ratio:.1f} times faster**; the other one has not finished"
