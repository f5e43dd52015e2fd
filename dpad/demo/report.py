"""What the demonstration measures after the race: four rows, the exact mode, a picture."""

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dpad.decode.suffix import Suffix
from dpad.demo.race import BLOCK, OrdinaryDecoder, answered, run
from dpad.demo.task import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

FULL = {"suffix": Suffix("all"), "cache": "none", "early_stop": False, "confidence_threshold": 0.9}
# Dropout as the model's defaults have it; of the two caches the one that approximates less.
ALL = {"cache": "prefix", "early_stop": True, "confidence_threshold": 0.9}
EXACT = {
    "suffix": Suffix("all"),
    "cache": "none",
    "early_stop": False,
    "compatible": "fast-dllm-llada",  # keeps the tail behind the end as it was decoded
}
CHUNK = 5  # problems per batch of the exact mode
SETTINGS = {
    "+ threshold": FULL,
    "+ early stop": {**FULL, "early_stop": True},
    "+ dropout and cache": ALL,
}
THREE_LINES = (
    'model = dpad.models.hf.AutoModel.from_pretrained("GSAI-ML/LLaDA-8B-Instruct")',
    "handle = dpad.patch(model)",
    "ids = model.generate(**inputs)  # from the checkpoint's tokenizer; published defaults",
)


def plain_row(decoder: OrdinaryDecoder, problem: Problem) -> dict[str, Any]:
    """The first row, from the first problem's `OrdinaryDecoder`.

    Every step computes the same canvas, so the time of steps that were not taken is their mean:
    ``steps_timed`` says how many were.
    """
    canvas = decoder.canvas
    return {
        "name": "plain",
        "right": answered(problem, decoder.answers[0]),
        "tokens": canvas,
        "forwards": canvas,
        "positions": canvas * decoder.tokens.shape[1],
        "seconds": decoder.seconds / decoder.steps * canvas,
        "steps_timed": decoder.steps,
        "ratio": 1.0,
    }


def rows(decoder: OrdinaryDecoder, problem: Problem, model: "nn.Module") -> list[dict[str, Any]]:
    """The four rows for one problem; `decoder` is its `OrdinaryDecoder`, at least one step in.

    Returns:
        list of dicts: name, right (None: the answer was not reached), tokens committed, forwards,
        positions computed, seconds (median of up to five runs within half a second), ratio (time
        of the first row divided by this one's).
    """
    plain = plain_row(decoder, problem)
    found = [plain]
    for name, options in SETTINGS.items():
        spent: list[float] = []
        while not spent or (len(spent) < 5 and sum(spent) < 0.5):
            output, seconds = run(model, problem, decoder.canvas, {**options, "seed": 0})
            spent.append(seconds)
        answer = output.sequences[0, len(problem.prompt_ids) :]
        found.append(
            {
                "name": name,
                "right": problem.check(answer),
                "tokens": round(float(output.tokens_per_forward[0] * output.forwards[0])),
                "forwards": int(output.forwards[0]),
                "positions": output.timings["positions"],
                "seconds": statistics.median(spent),
                "ratio": plain["seconds"] / statistics.median(spent),
            }
        )
    return found


def exact(
    stock: "nn.Module",
    patched: "nn.Module",
    problems: Sequence[Problem],
    canvas: int = 64,
    budget: float = float("inf"),
) -> dict[str, Any]:
    """How many problems dpad's exact mode decodes to the tokens of the ordinary decoder.

    Exact mode: full suffix, no cache, no early stop, one token per step. Every token of the canvas
    is compared, the tail behind the end too.

    Args:
        stock, patched: two instances of the model.
        problems: with prompts of one length; canvas: generated tokens.
        budget: seconds after which no further problems are begun.

    Returns:
        dict: identical, of (problems compared), canvas, ordinary_seconds, dpad_seconds.
    """
    result = {"identical": 0, "of": 0, "canvas": canvas, "ordinary_seconds": 0.0}
    result["dpad_seconds"] = 0.0
    for first in range(0, len(problems), CHUNK):
        if result["ordinary_seconds"] + result["dpad_seconds"] > budget:
            break
        prompts = [p.prompt_ids for p in problems[first : first + CHUNK]]
        expected = OrdinaryDecoder(stock, prompts, canvas)
        while not expected.finished:
            expected.step()
        begun = time.perf_counter()
        sizes = {"max_new_tokens": canvas, "block_length": BLOCK, "steps": canvas}
        generate = cast("Callable[..., Tensor]", patched.generate)
        ids = generate(prompts, **sizes, **EXACT)
        result["dpad_seconds"] += time.perf_counter() - begun
        result["ordinary_seconds"] += expected.seconds
        result["identical"] += int((ids == expected.tokens).all(-1).sum())
        result["of"] += len(prompts)
    return result


def picture(
    model: "nn.Module", problem: Problem, canvas: int, path: str | Path | None = None
) -> Path:
    """Draws kept slots and commits over time for one problem and returns the file's path.

    Written to `path`; None: ``dpad-demo.png`` in the current folder, or in the folder for temporary
    files where the current one cannot be written.
    """
    from dpad.plot import overview

    every, _ = run(model, problem, canvas, {**ALL, "early_stop": False, "trace": True, "seed": 0})
    real, _ = run(model, problem, canvas, {**ALL, "trace": True, "seed": 0})
    figure = overview(every.trace, timeline=real.trace)
    above, below = figure.axes[:2]
    above.set_title(
        "what each block could see (early stop off, to show every block)", size=10, pad=34
    )
    below.set_title("when each token was committed (early stop on)", size=10)
    if path is not None:
        figure.savefig(path)
        return Path(path)
    here = Path.cwd()
    path = (here if os.access(here, os.W_OK) else Path(tempfile.gettempdir())) / "dpad-demo.png"
    figure.savefig(path)
    return path
