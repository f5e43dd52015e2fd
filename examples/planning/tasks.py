"""Two tasks whose beginning depends on their end, and one with long answers that look far back.

A task has `name`, `vocabulary` (number of ids), `mask_id`, `start_id` (in every prompt),
`prompt_length`, `canvases` (lengths of the answers) and `block` (tokens decoded together). It may
have `curriculum`: the canvases of each part of the training, parts of equal length. Its rows are
then masked as decoding finds them.
"""

from itertools import permutations, product

import torch


class Fill:
    """Count down so that 0 falls on the very last position of the canvas.

    The answer to a canvas of 6 is ``5 4 3 2 1 0``, each number one token. The prompt says nothing
    about the length: only the far end of the canvas does. Behind the first block everything
    follows from the numbers that stand there.
    """

    name, block, prompt_length = "fill", 4, 1

    def __init__(self, shortest=8, longest=40):
        self.canvases = tuple(range(shortest, longest + 1))
        self.mask_id, self.start_id = longest, longest + 1
        self.vocabulary = longest + 2

    def problems(self, canvas, count, generator=None, split="test"):
        """`count` prompts with answers, int64 ``[count, 1 + canvas]``; a canvas has one answer."""
        answer = torch.arange(canvas - 1, -1, -1)
        return torch.cat((torch.tensor([self.start_id]), answer)).repeat(count, 1)

    def ceiling(self, window):
        """Share of the canvases that any decoder with this hard window can answer.

        Canvases that end with the window of the first block, or behind it, look the same to it: at
        most one of them is answered.
        """
        alike = sum(canvas >= self.block + window for canvas in self.canvases)
        return (len(self.canvases) - max(alike - 1, 0)) / len(self.canvases)


class Sudoku:
    """A 4x4 sudoku: the prompt is the puzzle, the answer all 16 cells, a block one row of them.

    Digits are the ids 1 to 4, an empty cell is 0. A puzzle has one solution, and none of its clues
    can be left out. One solved grid in eight is never trained on.
    """

    name, block, prompt_length, canvases = "sudoku", 4, 17, (16,)
    mask_id, start_id, vocabulary = 5, 6, 7

    def __init__(self):
        self.grids = torch.tensor(solved_grids())
        order = torch.randperm(len(self.grids), generator=torch.Generator().manual_seed(0))
        held = len(order) // 8
        self.splits = {"test": order[:held], "train": order[held:]}

    def problems(self, canvas, count, generator=None, split="test"):
        """`count` puzzles with their solutions, int64 ``[count, 17 + 16]``."""
        numbers = self.splits[split]
        chosen = numbers[torch.randint(len(numbers), (count,), generator=generator)]
        solution = self.grids[chosen]
        same = self.grids == solution[:, None]  # [count, grids, cells]
        given = torch.ones(count, 16, dtype=torch.bool)
        every = torch.arange(count)
        for cell in torch.rand(count, 16, generator=generator).argsort(1).T:
            given[every, cell] = False
            ambiguous = (same | ~given[:, None]).all(-1).sum(1) > 1
            given[every, cell] = ambiguous
        start = torch.full((count, 1), self.start_id)
        return torch.cat((solution * given, start, solution), dim=1)


class Cipher:
    """Lines of a marker, 22 digits and a key: each is an earlier line, deciphered with its key.

    A line repeats the one that stands three or four lines before, as its marker says. Each digit is
    the digit there plus the key of the line there, modulo 8. Its key is the last digit there,
    modulo 2, and its marker that of three lines before. So a token follows from two that were
    written 50 to 96 tokens before, and from the marker of its line. An answer is twelve lines, 288
    tokens. The key stands behind its digits: up to 22 tokens are written before it is settled what
    a digit means. No prompt is met twice: there are 2^8 * 8^88.
    """

    name, block, prompt_length, canvases = "cipher", 16, 97, (288,)
    curriculum = ((32,),) * 3 + ((32, 64), (64, 96, 144)) + ((96, 192, 288),) * 6
    line, given, digits = 24, 4, 8
    # Ids: the digits of the first, second and last third of a line, keys, markers, and the rest.
    KEYS, MARKERS = 3 * digits, 3 * digits + 2
    mask_id, start_id, vocabulary = MARKERS + 2, MARKERS + 3, MARKERS + 4

    def problems(self, canvas, count, generator=None, split="test"):
        """`count` prompts with answers, int64 ``[count, 97 + canvas]``: shorter ones are cut."""
        size = (count, self.given)
        digits = torch.randint(self.digits, (*size, self.line - 2), generator=generator)
        lines = [
            list(part.unbind(1))
            for part in (
                digits,
                torch.randint(2, size, generator=generator),
                torch.randint(2, size, generator=generator),
            )
        ]
        for _ in range(-(-canvas // self.line)):
            marker = lines[2][-3]
            far = marker.bool()
            digits = torch.where(far[:, None], lines[0][-4], lines[0][-3])
            key = torch.where(far, lines[1][-4], lines[1][-3])
            new = (digits + key[:, None]) % self.digits, digits[:, -1] % 2, marker
            for part, value in zip(lines, new, strict=True):
                part.append(value)
        digits, keys, markers = (torch.stack(part, dim=1) for part in lines)
        digits += torch.arange(self.line - 2) // 8 * self.digits
        keys, markers = keys[..., None] + self.KEYS, markers[..., None] + self.MARKERS
        written = torch.cat((markers, digits, keys), dim=-1).flatten(1)
        start = torch.full((count, 1), self.start_id)
        return torch.cat((start, written), dim=1)[:, : self.prompt_length + canvas]


def solved_grids():
    """All 288 solved 4x4 sudokus, as tuples of 16 digits."""
    halves = [
        (*a, *b)
        for a, b in product(permutations((1, 2, 3, 4)), repeat=2)
        if not set(a[:2]) & set(b[:2]) and not set(a[2:]) & set(b[2:])
    ]
    grids = (upper + lower for upper, lower in product(halves, repeat=2))
    return [g for g in grids if all(len(set(g[column::4])) == 4 for column in range(4))]


TASKS = {task.name: task for task in (Fill, Sudoku, Cipher)}
