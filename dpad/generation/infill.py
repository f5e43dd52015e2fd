"""Texts with gaps: masks anywhere in the given ids are filled, what is given stays and is seen."""

from collections.abc import Mapping
from typing import Any

import torch

from dpad.decode.replan import windows
from dpad.values import about

# Options that have no meaning for a text with gaps -> what they would need.
_NEEDS = {
    "output_history": "its columns are those of an answer behind a prompt",
    "refine": "only an answer behind a prompt is drafted and refined",
    "remask": "only an answer behind a prompt is masked again",
}


def check_infill(adapter: Any, config: Any, kept_quirks: dict[str, Any]) -> None:
    """Refuses models and options that gaps have no meaning for.

    Raises ValueError with the names and the values.
    """
    if not config.infill:
        return
    if adapter.attention != "full":
        raise about("infill")(
            f"infill = True: {adapter.family} has {adapter.attention} attention and sees nothing "
            "behind a block"
        )
    if config.compatible and not kept_quirks.get("infills"):
        raise about("infill", "compatible")(
            f"infill = True and compatible = {config.compatible!r}: that program fills no gaps"
        )
    for name, why in _NEEDS.items():
        if getattr(config, name):
            raise about("infill", name)(
                f"infill = True and {name} = {getattr(config, name)!r}: {why}"
            )


def check_given(
    supplied: Mapping[str, Any], hooks: Mapping[str, Any], stopping_criteria: Any
) -> None:
    """Refuses a caller's own code that a text with gaps has no place for, by name."""
    given = {"kept_suffix": supplied["kept_suffix"], "stopping_criteria": stopping_criteria}
    given |= {f"generation_{name}_hook_func": hook for name, hook in hooks.items()}
    for name, value in given.items():
        if value is not None:
            raise about(name, "infill")(
                f"{name} is given and infill = True: nothing ends or follows a prompt"
            )


def check_gaps(row: int, ids: torch.Tensor, mask_id: int, shift: int) -> None:
    """Raises ValueError for ids without a gap, or one that nothing can be predicted from."""
    masks = ids == mask_id
    if not masks.any():
        raise about("input_ids")(f"input_ids: row {row} holds no mask {mask_id}, and infill = True")
    if shift and masks[0]:
        raise about("input_ids")(
            f"input_ids: row {row} begins with a mask: this model predicts a token from its "
            "predecessor, begin the text with its begin-of-text token"
        )


def first_gap(ids: torch.Tensor, mask_id: int) -> int:
    """Position of the first mask."""
    return int((ids == mask_id).nonzero()[0, 0])


def blocks_of_gaps(ids: torch.Tensor, mask_id: int, block_length: int) -> list[int]:
    """Masks in each of the blocks that the gaps are laid in."""
    text = ids != mask_id
    blocks = windows(text, first_gap(ids, mask_id), block_length)
    return [int((~text[start:end]).sum()) for start, end in blocks]


def row_fields(ids: torch.Tensor, mask_id: int) -> dict[str, Any]:
    """Fields of the `Sequence` that fills the gaps of a text: no end id in it ends anything."""
    first = first_gap(ids, mask_id)
    return {
        "tokens": ids,
        "prompt_length": first,
        "given": ids != mask_id,
        "end_ids": (),
        "early_stop": False,
    }


def filled(ids: torch.Tensor, mask: torch.Tensor | None, results: list[Any], pad_id: int) -> Any:
    """The given columns with the gaps filled, int64 ``[batch, columns]``.

    Where texts have grown, each row begins in column 0, and padding follows it.
    """
    rows = [q.result.tokens.to(ids.device) for q in results]
    if all(q.length == q.tokens.shape[0] for q in results):
        out = ids.clone()
        for row, tokens in enumerate(rows):
            if mask is None:
                out[row] = tokens
            else:
                out[row, mask[row].to(ids.device)] = tokens
        return out
    return torch.nn.utils.rnn.pad_sequence(rows, True, pad_id)
