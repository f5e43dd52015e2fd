"""What the caller supplies, checked against model and batch: prompts, kept sets, draws."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from dpad.generation.infill import check_gaps
from dpad.generation.prompts import is_integer
from dpad.models.adapter import Adapter
from dpad.values import about, refuse, shown


def split_prompts(ids: Tensor, mask: Tensor | None) -> list[Tensor]:
    """One int64 tensor on the CPU per row, without its padding.

    Raises:
        ValueError: a row of padding only, or a mask with a hole; the message names the row.
    """
    ids = ids.cpu()
    if mask is None:
        return list(ids)
    mask = mask.cpu()
    prompts = []
    for row, (tokens, kept) in enumerate(zip(ids, mask, strict=True)):
        where = kept.nonzero()[:, 0]
        if where.numel() == 0 and kept.numel():
            raise about("attention_mask")(f"attention_mask: row {row} is all padding")
        if where.numel() and int(where[-1] - where[0]) + 1 != where.numel():
            raise about("attention_mask")(
                f"attention_mask: row {row} has a hole; expected padding on the left or the right"
            )
        prompts.append(tokens[kept])
    return prompts


def check_prompts(
    prompts: Sequence[Tensor],
    new_tokens: int | None,
    adapter: Adapter,
    mask_id: int,
    limit: int | None,
    infill: bool = False,
) -> None:
    """Refuses prompts that cannot be decoded; `limit`: most positions, or None.

    infill: they are texts with gaps, which may grow to `new_tokens` masks (None: they do not).

    Raises:
        ValueError: too long for the model, an id outside the vocabulary, the mask id inside a
            prompt, or an empty prompt of a model that predicts from the predecessor.
    """
    vocab = adapter.vocab_size
    for row, prompt in enumerate(prompts):
        length, most = prompt.numel(), new_tokens or 0
        if infill:
            check_gaps(row, prompt, mask_id, adapter.shift)
            masks = int((prompt == mask_id).sum())
            most = masks if new_tokens is None else new_tokens
            if masks > most:
                raise about("input_ids", "max_new_tokens")(
                    f"row {row} has {masks} masks, more than max_new_tokens = {most}, to which "
                    "they may grow"
                )
            length -= masks
        if limit is not None and length + most > limit:
            what = ("text", "masks") if infill else ("prompt", "max_new_tokens")
            raise about("input_ids", "max_new_tokens")(
                f"row {row}: {what[0]} of {length} + {what[1]} of {most} = {length + most} "
                f"positions, the model has {limit}"
            )
        ids = prompt.tolist()
        if ids and (min(ids) < 0 or max(ids) >= vocab):
            bad = next(n for n in ids if not 0 <= n < vocab)
            raise about("input_ids")(
                f"input_ids: row {row} holds id {bad}, the vocabulary has {vocab} ids"
            )
        if not infill and mask_id in ids:
            raise about("input_ids")(
                f"input_ids: row {row} holds the mask id {mask_id}; a prompt cannot hold masks, "
                "and a text with gaps goes with infill=True"
            )
        if length == 0 and adapter.shift:
            raise about("input_ids")(
                f"row {row} is empty: this model predicts a token from its predecessor, start the "
                "prompt with its begin-of-text token"
            )


def supplied_kept(
    kept: Any,
    sequences_blocks: Sequence[tuple[list[tuple[int, int]], int]],
    all_reached: bool = False,
) -> Callable[[int, int], Tensor]:
    """A function (row, block) -> int64 positions from what the caller supplied.

    Args:
        kept: a function (row, block) -> positions; or per block a list of positions, shared by
            all rows; or per row such a list. Positions count from the row's first token that is
            not padding.
        sequences_blocks: per row its blocks [(start, end), ...] and length.
        all_reached: nothing ends a row early, so that every block needs its positions.

    Raises:
        ValueError: a wrong number of rows or blocks, positions that do not ascend behind the
            block, or, when a block is reached, none supplied for it.
    """
    if not callable(kept) and not isinstance(kept, (list, tuple, torch.Tensor)):
        refuse("kept_suffix", kept, "lists of positions, or a function (row, block)")
    table: Any = None if callable(kept) else kept
    per_row = table is not None and _depth(table) == 3
    if per_row and len(table) != len(sequences_blocks):
        raise ValueError(
            f"kept_suffix holds {len(table)} rows, the batch has {len(sequences_blocks)}"
        )

    def look_up(row: int, block: int) -> Any:
        if table is None:
            return kept(row, block)
        blocks = table[row] if per_row else table
        if block >= len(blocks):
            raise ValueError(f"kept_suffix holds {len(blocks)} blocks, row {row} needs {block + 1}")
        return blocks[block]

    def draw(row: int, block: int) -> Tensor:
        positions = _positions(look_up(row, block), row, block)
        blocks, length = sequences_blocks[row]
        low = blocks[block][1]
        inside = ((positions >= low) & (positions < length)).all()
        if not inside or (positions.diff() <= 0).any():
            raise ValueError(
                f"kept_suffix of row {row}, block {block} = {positions.tolist()}: expected "
                f"ascending positions in [{low}, {length})"
            )
        return positions

    if table is not None:  # what was supplied is checked now; a run that stops early needs less
        for row, (blocks, _) in enumerate(sequences_blocks):
            given = len(blocks) if all_reached else len(table[row] if per_row else table)
            for block in range(min(given, len(blocks))):
                draw(row, block)
    return draw


def _positions(given: Any, row: int, block: int) -> Tensor:
    """int64 positions on the CPU; ValueError for anything but whole numbers."""
    name = f"kept_suffix of row {row}, block {block}"
    try:
        positions = torch.as_tensor(given, device="cpu").flatten()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{name} = {shown(given)}: expected positions ({error})") from error
    if positions.numel() and not is_integer(positions.dtype):
        refuse(name, given, "positions, which are whole numbers")
    return positions.to(torch.int64)


# Supplied draws -> the shape of what they return.
_DRAWN: dict[str, Callable[[Tensor, Any], list[int]]] = {
    "noise": lambda positions, vocab: [len(positions), vocab],
    "confidences": lambda positions, eligible: [len(positions)],
}


def supplied_draws(name: str, function: Any) -> Callable[..., Tensor] | None:
    """A caller's function of draws, what it returns checked each time; None stays None.

    Args:
        name: of the argument of `generate`, "noise" or "confidences".
        function: (rows, positions, vocab or eligible) -> numbers.

    Raises:
        TypeError: not a function.
        ValueError: when it is called: something else than numbers of that shape.
    """
    if function is None:
        return None
    if not callable(function):
        raise TypeError(f"{name} = {shown(function)}: expected a function")

    def checked(rows: list[int], positions: Tensor, x: Any) -> Tensor:
        drawn, shape = function(rows, positions, x), _DRAWN[name](positions, x)
        if not isinstance(drawn, torch.Tensor) or list(drawn.shape) != shape:
            got = f"shape {list(drawn.shape)}" if isinstance(drawn, torch.Tensor) else shown(drawn)
            raise ValueError(f"{name} returned {got}: expected a float64 tensor {shape}")
        if not drawn.is_floating_point():
            raise ValueError(f"{name} returned {drawn.dtype}: expected float64")
        if (drawn[x.to(drawn.device)] if name == "confidences" else drawn).isnan().any():
            raise ValueError(f"{name} returned NaN: expected numbers")
        return drawn.to(positions.device, torch.float64)

    return checked


def _depth(table: Iterable[Any]) -> int:
    """3 for rows of blocks of positions, 2 for blocks of positions."""
    for entry in table:
        if isinstance(entry, torch.Tensor):
            return 3 if entry.dim() == 2 else 2
        for inner in entry:
            if isinstance(inner, (list, tuple)) or (
                isinstance(inner, torch.Tensor) and inner.dim() == 1
            ):
                return 3
            return 2
    return 2
