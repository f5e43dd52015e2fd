"""`tune`: the loop over problems and configurations."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from dpad.generation.api import generate, merge
from dpad.generation.config import DPadGenerationConfig
from dpad.generation.progress import check_progress
from dpad.models.adapter import find_adapter
from dpad.tuning.grid import GRID, configurations, plain
from dpad.tuning.result import Point, Tuning, check_cost, check_tolerance
from dpad.tuning.store import Store, fingerprint, key
from dpad.values import entries, function, int64, optional, shown, whole


def tune(
    model: torch.nn.Module,
    problems: Iterable[Any],
    check: Callable[[Any, Any], Any],
    grid: Any = None,
    *,
    config: DPadGenerationConfig | None = None,
    tokenizer: Any = None,
    prompt: Callable[[Any], Any] | None = None,
    batch: int = 8,
    seed: int = 0,
    tolerance: float = 0.01,
    cost: str = "seconds",
    path: str | Path | None = None,
    progress: bool = True,
) -> Tuning:
    """Decodes the same problems with every configuration of a grid and compares them.

    The configurations take turns batch by batch, so that a machine that is busy for a while slows
    all of them. One batch is decoded before the clock starts.

    Args:
        model: as in `dpad.generate`, patched or not.
        problems: sequence of anything that has a prompt, see `prompt`.
        check: a function (problem, answer) -> bool, whether the answer is right. It gets the text
            without special tokens if there is a `tokenizer`, else int64 ``[new tokens]``.
        grid: option -> values, in every combination; or a list of configurations. Default:
            `dpad.tuning.grid.GRID`, four suffixes, two caches, three thresholds.
        config: `DPadGenerationConfig`, what all points have in common.
        tokenizer: encodes prompts that are texts, and decodes answers.
        prompt: a function problem -> text or token ids; default: the problem itself, or what it
            holds as "prompt" (key or attribute).
        batch: problems decoded together.
        seed: of all draws; problem i has row key i.
        tolerance: share of right answers that the choice may lose.
        cost: what the choice is to save: "seconds", "positions" or "forwards".
        path: file of JSON lines that keeps every measured batch. A call with the same file
            continues there, also with more points or more problems (whole batches are kept). It
            belongs to one model, seed and `check`: a changed `check` needs another file.
        progress: show a bar (tqdm.auto).

    Returns:
        `Tuning`: a table, `plot`, and `best.config`.

    Raises:
        TypeError, ValueError: a bad argument, by name and value, before any work.
    """
    points = configurations(GRID if grid is None else grid, config)
    check_cost(cost)
    check_tolerance(tolerance)
    function("check", check)
    for name, given in (("tokenizer", tokenizer), ("prompt", prompt)):
        optional(function)(name, given)
    batch, seed = whole(1)("batch", batch), int64("seed", seed)
    check_progress(progress)
    find_adapter(model)
    problems = list(entries("problems", problems, "problems"))
    prompts = [_ids(_prompt(problem, prompt), tokenizer) for problem in problems]
    if not prompts:
        raise ValueError("problems is empty: expected at least one")
    store = Store(path, {"model": fingerprint(model), "seed": seed})
    run = _Run(model, problems, prompts, check, tokenizer, seed, store)
    cells = run.measure(points, batch, progress)
    found = [_point(p, c) for p, c in zip(points, cells, strict=True)]
    return Tuning(found, tolerance, cost)


def _prompt(problem: Any, prompt: Callable[[Any], Any] | None) -> Any:
    if prompt is not None:
        return prompt(problem)
    if isinstance(problem, Mapping):
        if "prompt" not in problem:
            raise ValueError(f"problem {shown(problem)} holds no 'prompt': give prompt=")
        return problem["prompt"]
    return getattr(problem, "prompt", problem)


def _ids(prompt: Any, tokenizer: Any) -> list[int]:
    """Token ids of a prompt, a list of int."""
    if isinstance(prompt, str):
        if tokenizer is None:
            raise ValueError(f"prompt {shown(prompt)} is a text: give the tokenizer as well")
        return list(tokenizer(prompt)["input_ids"])
    ids = prompt.tolist() if isinstance(prompt, torch.Tensor) else prompt
    flat = isinstance(ids, Sequence) and all(isinstance(i, int) for i in ids)
    if not flat or not ids:
        raise ValueError(f"prompt {shown(prompt)}: expected a text or a flat list of token ids")
    return list(ids)


def _point(config: DPadGenerationConfig, cells: list[dict[str, Any]]) -> Point:
    n = sum(len(cell["right"]) for cell in cells)
    right = tuple(value for cell in cells for value in cell["right"])
    costs = [sum(c[name] for c in cells) / n for name in ("forwards", "positions", "seconds")]
    return Point(config, right, *costs)


class _Run:
    """The problems of a sweep, and what has been measured of them."""

    def __init__(
        self,
        model: torch.nn.Module,
        problems: list[Any],
        prompts: list[list[int]],
        check: Callable[[Any, Any], Any],
        tokenizer: Any,
        seed: int,
        store: Store,
    ) -> None:
        self.model, self.problems, self.prompts = model, problems, prompts
        self.check, self.tokenizer, self.seed, self.store = check, tokenizer, seed, store

    def measure(
        self, points: list[DPadGenerationConfig], batch: int, progress: bool
    ) -> list[list[dict[str, Any]]]:
        """For each point the cells of its batches."""
        from tqdm.auto import tqdm

        firsts = range(0, len(self.prompts), batch)
        base = getattr(getattr(self.model, "_dpad_handle", None), "config", None)
        in_force = [plain(merge(self.model, base, point, {})) for point in points]
        plan = [
            (number, first, key(in_force[number], [first, self.prompts[first : first + batch]]))
            for turn, first in enumerate(firsts)
            for number in _turned(range(len(points)), turn)
        ]
        known = self.store.cells
        todo = [cell for cell in plan if cell[2] not in known]
        if todo:
            self._decode(points[todo[0][0]], todo[0][1], batch)
        shown: dict[str, Any] = {
            "initial": len(plan) - len(todo),
            "total": len(plan),
            "disable": not progress,
        }
        for number, first, name in tqdm(todo, unit="batch", desc="tune", **shown):
            self.store.add(name, self._cell(points[number], first, batch))
        cells: list[list[dict[str, Any]]] = [[] for _ in points]
        for number, _, name in plan:
            cells[number].append(known[name])
        return cells

    def _decode(self, config: DPadGenerationConfig, first: int, batch: int) -> tuple[Any, int]:
        """(output, number of prompt columns) of a batch."""
        prompts = [torch.tensor(ids) for ids in self.prompts[first : first + batch]]
        ids = pad_sequence(prompts, True, 0, "left")
        mask = pad_sequence([torch.ones_like(p) for p in prompts], True, 0, "left")
        device = next(self.model.parameters()).device
        out = generate(
            self.model,
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            seed=self.seed,
            row_keys=list(range(first, first + len(prompts))),
            return_dict_in_generate=True,
        )
        return out, ids.shape[1]

    def _cell(self, config: DPadGenerationConfig, first: int, batch: int) -> dict[str, Any]:
        begun = time.perf_counter()
        out, columns = self._decode(config, first, batch)
        seconds = time.perf_counter() - begun
        right = []
        problems = self.problems[first : first + batch]
        for problem, ids in zip(problems, out.sequences[:, columns:].cpu(), strict=True):
            answer = ids
            if self.tokenizer is not None:
                answer = self.tokenizer.decode(ids, skip_special_tokens=True)
            right.append(bool(self.check(problem, answer)))
        return {
            "config": plain(config),
            "right": right,
            "forwards": int(out.forwards.sum()),
            "positions": out.timings["positions"],
            "seconds": seconds,
        }


def _turned(values: Sequence[int], turn: int) -> list[int]:
    """The values, beginning with another one at each turn."""
    turn %= len(values)
    return [*values[turn:], *values[:turn]]
