"""Tasks with exact answers: those of the shipped models, and those of examples/planning."""

import sys
from pathlib import Path
from typing import ClassVar

import torch

import dpad
from dpad.models.hf import LLaDAModelLM

PLANNING = Path(__file__).parents[1] / "examples" / "planning"
FOLDER = Path("out/planning")  # where its models are, unless it is said
SHIPPED = {"counting": "tiny_llada", "dream": "tiny_dream"}
PLANNED = ("fill", "sudoku", "cipher")


class Counting:
    """The task of the shipped models."""

    options: ClassVar = {"block_length": 32, "early_stop": True}

    def __init__(self, model, problems):
        self.model, _ = dpad.demo.load(name=model)
        self._problems = dpad.demo.problems(problems, seed=1)
        self.prompts = [p.prompt_ids for p in self._problems]

    def length(self, number):
        return 96

    def right(self, number, answer):
        return self._problems[number].check(answer)

    def begun(self, number, answer):
        return None  # its checker takes more than one text


class Planning:
    """A task of examples/planning; the problems of "fill" are spread evenly over its canvases."""

    def __init__(self, name, problems, folder):
        if str(PLANNING) not in sys.path:
            sys.path.insert(0, str(PLANNING))
        from tasks import TASKS

        if not (folder / name / "model.safetensors").exists():
            raise SystemExit(f"--planning {folder}: no {name}; python examples/planning trains it")
        task = TASKS[name]()
        self.model = LLaDAModelLM.from_pretrained(folder / name).eval()
        count = max(problems // len(task.canvases), 1)
        self.rows = [
            row
            for canvas in task.canvases
            for row in task.problems(canvas, count, torch.Generator().manual_seed(1))
        ]
        self.prompt_length = task.prompt_length
        self.prompts = [row[: task.prompt_length].tolist() for row in self.rows]
        self.options = {"block_length": task.block, "early_stop": False}

    def length(self, number):
        return len(self.rows[number]) - self.prompt_length

    def right(self, number, answer):
        return answer.tolist() == self.rows[number][self.prompt_length :].tolist()

    def begun(self, number, answer):
        """Per cent of the tokens before the first one that is wrong."""
        wrong = (answer != self.rows[number][self.prompt_length :]).nonzero().flatten().tolist()
        return 100 * wrong[0] / len(answer) if wrong else 100.0


def task_of(name, options):
    if name in SHIPPED:
        return Counting(SHIPPED[name], options.problems)
    return Planning(name, options.problems, options.planning)
