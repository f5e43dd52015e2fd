"""``progress=True``: a bar that counts the tokens of finished blocks (tqdm.auto)."""

from collections.abc import Collection
from typing import Self

from torch import Tensor


class Progress:
    """A bar over the answers of a call; a context manager.

    Args:
        new_tokens: how long the answer of each row may become, a list.
        end_ids: end-of-text ids; early_stop: whether one in a finished block ends its row.
    """

    def __init__(
        self, new_tokens: list[int], end_ids: Collection[int], early_stop: bool = True
    ) -> None:
        self.total, self.left = sum(new_tokens), list(new_tokens)
        self.end_ids = end_ids if early_stop else ()

    def __enter__(self) -> Self:
        from tqdm.auto import tqdm

        self.bar = tqdm(total=self.total, unit="tok", desc="dpad")
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def block(self, row: int, tokens: Tensor, ended: bool) -> None:
        """Counts a finished block, int64 ``[block]``; all that is left of a row that ends here."""
        ended = ended or any(token in self.end_ids for token in tokens.tolist())
        count = self.left[row] if ended else tokens.shape[0]
        self.left[row] -= count
        self.bar.update(count)


def check_progress(value: object) -> bool:
    """Raises TypeError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"progress = {value!r}: expected True or False")
    return value
