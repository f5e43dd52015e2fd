"""Prompts as users pass them: tensor, lists, BatchEncoding; padded left or right, or not at all."""

from collections.abc import Mapping

import torch


def _tensor(name, value, integer=True):
    if isinstance(value, torch.Tensor):
        out = value
    else:
        try:
            out = torch.tensor(value, dtype=torch.int64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: expected token ids, got {type(value).__name__}") from error
    if out.dim() == 1:
        out = out[None]
    if out.dim() != 2:
        raise ValueError(f"{name} has shape {list(out.shape)}: expected [batch, length]")
    if integer and not _is_integer(out.dtype):
        if out.numel():
            raise ValueError(f"{name} has dtype {out.dtype}: expected integer ids")
        out = out.to(torch.int64)
    return out


def _is_integer(dtype):
    return not dtype.is_floating_point and not dtype.is_complex


def read_inputs(inputs, input_ids, attention_mask):
    """``input_ids`` int64 ``[batch, length]`` and mask bool or None, from any accepted form.

    Raises:
        ValueError: both or neither of inputs and input_ids, or a bad shape or dtype.
    """
    if isinstance(inputs, Mapping) or (
        hasattr(inputs, "keys") and not isinstance(inputs, torch.Tensor)
    ):
        extra = set(inputs.keys()) - {"input_ids", "attention_mask", "token_type_ids"}
        if extra:
            raise ValueError(f"inputs holds {sorted(extra)}: expected input_ids, attention_mask")
        if attention_mask is None and "attention_mask" in inputs:
            attention_mask = inputs["attention_mask"]
        inputs = inputs["input_ids"]
    if (inputs is None) == (input_ids is None):
        raise ValueError("give the prompt once: as the first argument or as input_ids")
    ids = _tensor("input_ids", inputs if inputs is not None else input_ids).to(torch.int64)
    if ids.shape[0] == 0:
        raise ValueError("input_ids has no rows: expected at least one prompt")
    if attention_mask is None:
        return ids, None
    mask = _tensor("attention_mask", attention_mask, integer=False)
    if mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask has shape {list(mask.shape)}, input_ids {list(ids.shape)}"
        )
    if ((mask != 0) & (mask != 1)).any():
        raise ValueError("attention_mask holds values other than 0 and 1")
    return ids, mask.bool()


def split_prompts(ids, mask):
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
            raise ValueError(f"attention_mask: row {row} is all padding")
        if where.numel() and int(where[-1] - where[0]) + 1 != where.numel():
            raise ValueError(
                f"attention_mask: row {row} has a hole; expected padding on the left or the right"
            )
        prompts.append(tokens[kept])
    return prompts


def check_prompts(prompts, new_tokens, adapter, mask_id, limit):
    """Refuses prompts that cannot be decoded; `limit`: most positions, or None.

    Raises:
        ValueError: too long for the model, an id outside the vocabulary, the mask id inside a
            prompt, or an empty prompt of a model that predicts from the predecessor.
    """
    for row, prompt in enumerate(prompts):
        length = prompt.numel()
        if limit is not None and length + new_tokens > limit:
            raise ValueError(
                f"row {row}: prompt of {length} + max_new_tokens of {new_tokens} = "
                f"{length + new_tokens} positions, the model has {limit}"
            )
        bad = (prompt < 0) | (prompt >= adapter.vocab_size)
        if bad.any():
            raise ValueError(
                f"input_ids: row {row} holds id {int(prompt[bad][0])}, the vocabulary has "
                f"{adapter.vocab_size} ids"
            )
        if (prompt == mask_id).any():
            raise ValueError(
                f"input_ids: row {row} holds the mask id {mask_id}; a prompt cannot hold masks"
            )
        if length == 0 and adapter.shift:
            raise ValueError(
                f"row {row} is empty: this model predicts a token from its predecessor, start the "
                "prompt with its begin-of-text token"
            )


def supplied_kept(kept, sequences_blocks):
    """A function (row, block) -> int64 positions from what the caller supplied.

    Args:
        kept: a function (row, block) -> positions; or per block a list of positions, shared by
            all rows; or per row such a list. Positions count from the row's first token that is
            not padding.
        sequences_blocks: per row its blocks [(start, end), ...] and length.

    Raises:
        ValueError: a wrong number of rows, positions that do not ascend behind the block, or,
            when a block is reached, none supplied for it.
    """
    table = None if callable(kept) else kept
    per_row = table is not None and _depth(table) == 3
    if per_row and len(table) != len(sequences_blocks):
        raise ValueError(
            f"kept_suffix holds {len(table)} rows, the batch has {len(sequences_blocks)}"
        )

    def look_up(row, block):
        if table is None:
            return kept(row, block)
        blocks = table[row] if per_row else table
        if block >= len(blocks):
            raise ValueError(f"kept_suffix holds {len(blocks)} blocks, row {row} needs {block + 1}")
        return blocks[block]

    def draw(row, block):
        given = look_up(row, block)
        positions = torch.as_tensor(given, dtype=torch.int64, device="cpu").flatten()
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
            for block in range(min(len(table[row] if per_row else table), len(blocks))):
                draw(row, block)
    return draw


def _depth(table):
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
