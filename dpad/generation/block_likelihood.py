"""Likelihoods of block-causal models: each block of an answer, given the clean ones before it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from dpad.decode.cache import KVArena
from dpad.decode.decoder import NaNLogitsError
from dpad.decode.forward import guided, run_layers
from dpad.decode.layout import Layout
from dpad.generation.row_key import key_of
from dpad.models.adapter import Adapter

if TYPE_CHECKING:
    from dpad.generation.likelihood import _Masks

Scored = tuple[Tensor, int]  # ids int64 ``[length]``, how many of them are the prompt


def by_blocks(
    model_parts: tuple[Adapter, KVArena, int, float],
    texts: list[Scored],
    keys: list[int],
    draw: Callable[[int, int], "_Masks"],
    micro_batch: int | None,
    progress: bool,
) -> list[tuple[float, float, int]]:
    """(value, standard error, masked blocks) of each text, of its answer's blocks together.

    `model_parts` are the arguments of a `BlockScorer`; `draw(length, key)` gives the masks of a
    block.
    """
    scorer = BlockScorer(*model_parts)
    blocks = [places(text, prompt, scorer.adapter) for text, prompt in texts]
    drawn = [
        [draw(p.last - p.first, key_of(key, number)) for number, p in enumerate(of_text)]
        for of_text, key in zip(blocks, keys, strict=True)
    ]
    masks = [[d.mask for d in of_text] for of_text in drawn]
    counts = [sum(map(len, of_text)) for of_text in masks]
    size = max(1, min(micro_batch or sum(counts), sum(counts)))
    with tqdm(total=sum(counts), unit="block", desc="dpad", disable=not progress) as bar:
        sums, given = scorer.run(texts, blocks, masks, size, bar) if texts else ([], [])
    found = []
    for number, (first, of_text, of_blocks) in enumerate(zip(given, drawn, sums, strict=True)):
        parts = [d.estimate(s) for d, s in zip(of_text, of_blocks, strict=True)]
        value = math.fsum([first, *(v for v, _ in parts)])
        if math.isnan(value):
            raise NaNLogitsError(f"the model gave NaN logits for pairs[{number}]")
        found.append((value, math.hypot(*(error for _, error in parts)), counts[number]))
    return found


@dataclass
class Place:
    """Where an answer meets a block [start, end): its tokens [first, last) may be masked there, and
    `given` is the one before them that the row before predicts on its own, or None.
    """

    start: int
    end: int
    first: int
    last: int
    given: int | None


def places(text: Tensor, prompt: int, adapter: Adapter) -> list[Place]:
    """The `Place` of every block that holds tokens of the answer ``text[prompt:]``.

    Where row i - 1 predicts position i, a block's first token comes from the block before it.
    """
    block, found = adapter.block_length or 0, []
    for start in range(prompt // block * block, len(text), block):
        first, last = max(start, prompt), min(start + block, len(text))
        given = first if adapter.shift and first == start else None
        found.append(Place(start, start + block, first + (given is not None), last, given))
    return found


class BlockScorer:
    """Computes blocks with masks behind clean ones, whose K/V is computed once and is exact.

    What of the last block lies behind the answer stays masked, as the model was trained.
    """

    def __init__(self, adapter: Adapter, arena: KVArena, mask_id: int, guidance: float) -> None:
        self.adapter, self.arena, self.mask_id = adapter, arena, mask_id
        self.guidance, self.streams = guidance, 2 if guidance else 1

    def run(
        self,
        texts: list[Scored],
        blocks: list[list[Place]],
        masks: list[list[Tensor]],
        size: int,
        bar: tqdm,
    ) -> tuple[list[list[Tensor]], list[float]]:
        """(per text and block float64 ``[masks]``, the masked tokens' log-probabilities summed; per
        text float64, the sum of those that are `given`).

        `texts`: (ids, length of the prompt); `blocks`: the `Place` of each of their blocks;
        `masks`: bool ``[masks, last - first]`` of each of these. `size`: masked blocks of a pass.
        """
        groups = list(_groups([sum(map(len, of_text)) for of_text in masks], size))
        behind = [of_text[-1].start for of_text in blocks]
        longest = max(of_text[-1].end for of_text in blocks)
        room = max(sum(behind[first:end]) for first, end in groups)
        self.arena.reserve(self.adapter, self.streams * (room + size * longest))
        sums, given = [], []
        with torch.inference_mode():
            for first, end in groups:
                part = slice(first, end)
                clean, found = self._clean(texts[part], blocks[part])
                given += found
                jobs = [
                    (number, place, mask)
                    for number, of_text in enumerate(blocks[part])
                    for place, of_place in zip(of_text, masks[first + number], strict=True)
                    for mask in of_place
                ]
                for at in range(0, len(jobs), size):
                    sums += self._masked(texts[part], clean, jobs[at : at + size], longest)
                    bar.update(len(jobs[at : at + size]))
        counts = [len(mask) for of_text in masks for mask in of_text]
        sums = iter(torch.tensor(sums, dtype=torch.float64, device="cpu").split(counts))
        return [[next(sums) for _ in of_text] for of_text in masks], given

    def _clean(
        self, texts: list[Scored], blocks: list[list[Place]]
    ) -> tuple[list[dict[int, int]], list[float]]:
        """K/V of the blocks before each text's last one: (per stream, number of the text -> its
        first slot; per text, the sum of the log-probabilities of the tokens that are given).
        """
        starts: list[dict[int, int]] = []
        parts: list[tuple[Tensor, int, int, int]] = []
        rows, answers, begun = [], [], 0
        some = [number for number, of_text in enumerate(blocks) if of_text[-1].start]
        for stream in range(self.streams):
            starts.append({})
            for number in some:
                (ids, prompt), end = texts[number], blocks[number][-1].start
                starts[stream][number] = begun
                parts.append((self._hidden(ids[:end], prompt, stream), 0, end, begun))
                given = [p.given for p in blocks[number] if p.given is not None]
                rows.append(torch.tensor(given, dtype=torch.int64, device="cpu") - 1)
                answers.append(ids[given])
                begun += end
        found = [0.0] * len(texts)
        if parts:
            sums = self._sums(parts, rows, torch.cat(answers[: len(some)]), limited=True)
            for number, value in zip(some, sums, strict=True):
                found[number] = value
        return starts, found

    def _masked(
        self,
        texts: list[Scored],
        clean: list[dict[int, int]],
        jobs: list[tuple[int, Place, Tensor]],
        longest: int,
    ) -> list[float]:
        """The masked tokens' log-probabilities, summed, of (number of the text, place, mask)."""
        base = self.arena.slots - self.streams * len(jobs) * longest
        parts: list[tuple[Tensor, int, int, int]] = []
        rows, answers = [], []
        for stream in range(self.streams):
            for number, place, mask in jobs:
                ids, prompt = texts[number]
                tokens = torch.full((place.end,), self.mask_id, device="cpu")
                tokens[: place.last] = ids[: place.last]
                tokens[place.first : place.last][mask] = self.mask_id
                at = base + len(parts) * longest
                if place.start:
                    self.arena.copy(clean[stream][number], at, place.start)
                hidden = self._hidden(tokens, prompt, stream)
                parts.append((hidden, place.start, place.end, at))
                masked = place.first + mask.nonzero()[:, 0]
                rows.append(masked - self.adapter.shift - place.start)
                answers.append(ids[masked])
        return self._sums(parts, rows, torch.cat(answers[: len(jobs)]))

    def _hidden(self, tokens: Tensor, prompt: int, stream: int) -> Tensor:
        """The tokens as a stream of guidance sees them: the second one without the prompt."""
        tokens = tokens.clone()
        if stream:
            tokens[:prompt] = self.mask_id
        return tokens

    def _sums(
        self,
        parts: list[tuple[Tensor, int, int, int]],
        rows: list[Tensor],
        answers: Tensor,
        limited: bool = False,
    ) -> list[float]:
        """One pass of (tokens, first position, end, first slot), each a sequence; the sum of the
        log-probabilities of `answers` in each of the first stream, as the `rows` of each predict
        them. `limited`: a row sees no block behind its own.
        """
        device, host = self.adapter.device, partial(torch.tensor, dtype=torch.int64, device="cpu")
        of_parts = [torch.arange(first, end, device="cpu") for _, first, end, _ in parts]
        position = torch.cat(of_parts)
        sizes = host([(end - first, start, end) for _, first, end, start in parts])
        offsets = F.pad(sizes[:, 0].cumsum(0), (1, 0))
        counts = host([len(of_part) for of_part in rows])
        logit_row = torch.cat([r + at for r, at in zip(rows, offsets.tolist(), strict=False)])
        limit = self.adapter.key_limit(position, int(position.max()) + 1) if limited else None
        layout = Layout(
            slot=position,
            position=position,
            q_offsets=offsets,
            n_keys=sizes[:, 2].contiguous(),
            logit_row=logit_row,
            l_offsets=F.pad(counts.cumsum(0), (1, 0)),
            canvas_row=torch.zeros_like(counts),
            kv_start=sizes[:, 1].contiguous(),
            hidden_until=None,
            target=logit_row,
            length=counts,
            max_position=int(position.max()),
            sizes=tuple(map(tuple, sizes.tolist())),
            key_limit=limit,
        ).to(device)
        tokens = torch.cat([t[first:end] for t, first, end, _ in parts]).to(device)
        hidden = self.adapter.embed(tokens)
        hidden = run_layers(
            self.adapter, hidden, layout, self.arena, layout.logit_row, key_limit=layout.key_limit
        )
        logits = self.adapter.head(hidden)
        if self.guidance:
            logits = guided(logits, self.guidance)
        loss = losses(self.adapter, logits, answers.to(device), self.mask_id)
        shares = loss.split(counts[: len(parts) // self.streams].tolist())
        return [-float(values.sum()) for values in shares]


def losses(adapter: Adapter, logits: Tensor, answers: Tensor, mask_id: int) -> Tensor:
    """Minus the log-probability of each of `answers`, int64 ``[rows]``, by logits ``[rows,
    vocab]``: float64 ``[rows]`` on the CPU.
    """
    if adapter.untrained_mask:
        logits = logits.index_fill(1, torch.full((1,), mask_id, device=logits.device), -torch.inf)
    return F.cross_entropy(logits.float(), answers, reduction="none").double().cpu()


def _groups(counts: list[int], size: int) -> Iterator[tuple[int, int]]:
    """Ranges [first, end) of neighbours that have at least `size` together, where there are as
    many.
    """
    first = total = 0
    for number, count in enumerate(counts):
        total += count
        if total >= size:
            yield first, number + 1
            first, total = number + 1, 0
    if first < len(counts):
        yield first, len(counts)
