"""Counting with a countdown: the task of the shipped models.

The user asks ``by S forward from``; the answer starts behind a given state ``AAAA<letter>``, four
digits and the number of steps as a letter (e = 5 ... m = 13 would be n = 4 ... 12 records). Each
record of the answer adds S and steps the letter back; the record with ``a`` is the last:

    <|startoftext|><|user|>by 3 forward from<|assistant|>4185e -> 4188d4191c4194b4197a<|endoftext|>

Answers are 20 to 60 tokens, one character each, and end on their own in a canvas of any length.
A start number belongs to the test split if ``(number * 2654435761 mod 2**32) >> 29`` is 0 (one of
eight, spread evenly); training never starts from those. Records inside a test run may well have
occurred inside a training run that started elsewhere.
"""

import random
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from transformers import PreTrainedTokenizerBase

    from dpad.models.hf.interface import NativeModel

START, END, MASK, USER, ASSISTANT = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|user|>",
    "<|assistant|>",
)
SPECIAL = (START, END, MASK, USER, ASSISTANT)
# Token id = index. 48 entries.
VOCABULARY = (*SPECIAL, *"0123456789", " ", *"abcdefghijklmnopqrstuvwxyz", *".,:;+-")
START_ID, END_ID, MASK_ID, USER_ID, ASSISTANT_ID = range(5)

MODELS = ("tiny_llada", "tiny_dream", "tiny_sdar")  # shipped, trained on this task
STEPS = (1, 2, 3)
COUNTS = range(4, 13)
_IDS = {token: index for index, token in enumerate(VOCABULARY)}
_TOKEN = re.compile("|".join(map(re.escape, SPECIAL)) + r"|.", re.DOTALL)
_PROMPT = re.compile(
    re.escape(START + USER) + r"by ([123]) forward from" + re.escape(ASSISTANT) + r"(\d{4})([e-m])"
)
_SPLITS = ("train", "test")


def encode(text: str) -> list[int]:
    """Token ids (list of int) of a text; ValueError names a character outside the vocabulary."""
    tokens = _TOKEN.findall(text)
    for token in tokens:
        if token not in _IDS:
            raise ValueError(f"text: {token!r} is not in the demo vocabulary")
    return [_IDS[token] for token in tokens]


def decode(ids: "Iterable[int] | torch.Tensor") -> str:
    """Text of token ids (any iterable of int, or a 1-D tensor), special tokens included."""
    ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    for index in ids:
        if not 0 <= index < len(VOCABULARY):
            raise ValueError(f"ids: {index} is not in the demo vocabulary of {len(VOCABULARY)}")
    return "".join(VOCABULARY[index] for index in ids)


def solve(prompt: str) -> str:
    """The only right answer to a prompt text, without end token; ValueError if it is no prompt."""
    match = _PROMPT.fullmatch(prompt)
    if match is None:
        raise ValueError(f"prompt: {prompt!r} is not a prompt of the counting task")
    step, start, count = int(match[1]), int(match[2]), ord(match[3]) - ord("a")
    if start + count * step > 9999:
        raise ValueError(f"prompt: {start} + {count} * {step} needs more than four digits")
    return "".join(
        f"{start + i * step:04d}{chr(ord('a') + count - i)}" for i in range(1, count + 1)
    )


def held_out(start: int) -> bool:
    """True if runs from this start number belong to the test split."""
    return (start * 2654435761 % 2**32) >> 29 == 0


@dataclass(frozen=True)
class Problem:
    """One prompt of the task; everything else is computed from it."""

    prompt: str

    @cached_property
    def prompt_ids(self) -> list[int]:
        """Token ids of the prompt, a list of 25 ints."""
        return encode(self.prompt)

    @cached_property
    def answer(self) -> str:
        """The right answer without end token, 20 to 60 characters."""
        return solve(self.prompt)

    def check(self, answer: "str | Iterable[int] | torch.Tensor") -> bool:
        """True if `answer`, text or token ids *without the prompt*, is exactly right.

        Ids (iterable of int or 1-D tensor) must hold the end token right behind the answer; what
        follows it does not count. Text may lack the end token, as decoders strip it.
        """
        is_text = isinstance(answer, str)
        text, end, _ = (answer if isinstance(answer, str) else decode(answer)).partition(END)
        return text == solve(self.prompt) and (is_text or bool(end))


def _draw(rng: random.Random, crossing: bool, beyond: int) -> tuple[int, int, int]:
    """One (step, start, count); `crossing`: a hundred lies inside or just behind the run."""
    step, count = rng.choice(STEPS), rng.choice(COUNTS)
    if crossing:
        last = 100 * rng.randrange(99) + 99  # before the hundred
        return step, last - rng.randrange(step * (count + beyond)), count
    return step, rng.randrange(10000 - step * count), count


def sample(rng: random.Random, split: str, crossing: float, beyond: int = 0) -> Problem:
    """One random `Problem` of a split, from `rng` (random.Random).

    `crossing`: probability that the run is made to pass a hundred (a carry over two digits); other
    runs may pass one by chance. With `beyond` it may also be made to end up to so many records
    before passing one.
    """
    forced = rng.random() < crossing
    while True:
        step, start, count = _draw(rng, forced, beyond)
        if held_out(start) == (split == "test"):
            state = f"{start:04d}{chr(ord('a') + count)}"
            return Problem(f"{START}{USER}by {step} forward from{ASSISTANT}{state}")


def problems(n: int, seed: int | str = 0, split: str = "test") -> list[Problem]:
    """`n` different problems of a split: "test" (held out, the default) or "train".

    The same `seed` gives the same list, and a longer list begins with the shorter one. In at least
    three of ten the run passes a hundred. Raises TypeError or ValueError for a bad argument.
    """
    if not isinstance(n, int) or isinstance(n, bool):
        raise TypeError(f"n={n!r} must be an int")
    if not 0 <= n <= 10000:
        raise ValueError(f"n={n} must be between 0 and 10000")
    if split not in _SPLITS:
        raise ValueError(f"split={split!r} must be one of {_SPLITS}")
    rng = random.Random(f"{split}-{seed}")
    found: dict[Problem, None] = {}
    while len(found) < n:
        found.setdefault(sample(rng, split, crossing=0.3), None)
    return list(found)


def model_folder(name: str = "tiny_llada") -> Path:
    """Folder of a shipped model, a name of `MODELS` (config, weights, tokenizer, model card)."""
    if name not in MODELS:
        raise ValueError(f"name={name!r} must be one of {MODELS}")
    return Path(__file__).with_name(name)


def load(
    dtype: "torch.dtype | None" = None, name: str = "tiny_llada"
) -> tuple["NativeModel", "PreTrainedTokenizerBase"]:
    """(model, tokenizer) of a shipped model, a name of `MODELS`, on the CPU, in eval mode.

    `dtype`: torch dtype of the weights, float32 if None (they are stored in float16). Needs
    transformers.
    """
    import torch
    from transformers import AutoTokenizer

    from dpad.models.hf import AutoModel

    folder = model_folder(name)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        cure = f"; pass name={dtype!r}" if dtype in MODELS else ""
        raise ValueError(f"dtype = {dtype!r}: expected a torch dtype{cure}")
    model = AutoModel.from_pretrained(folder, dtype=dtype or torch.float32)
    # With the config at hand no tokenizer is looked up for a type unknown to Transformers.
    return model.eval(), AutoTokenizer.from_pretrained(folder, config=model.config)
