"""What fits into memory, computed from shapes: nothing is allocated."""

from dataclasses import dataclass

from dpad.decode import device as devices
from dpad.decode.cache import slot_bytes
from dpad.models.adapter import Adapter


@dataclass(frozen=True)
class Capacity:
    """What an engine needs, in bytes.

    `slot_bytes`: K and V of one position in all layers; `kv_bytes` of all its slots;
    `canvas_bytes`; `pass_bytes`: activations of the largest pass that it can be asked for;
    `free_bytes` on the device now (None: unknown), the buffers that it already has not counted;
    `max_tokens`: slots for which all of this fits (None: unknown).
    """

    slot_bytes: int
    kv_bytes: int
    canvas_bytes: int
    pass_bytes: int
    free_bytes: int | None
    max_tokens: int | None

    @property
    def needed_bytes(self) -> int:
        """Of everything together."""
        return self.kv_bytes + self.canvas_bytes + self.pass_bytes

    def fits(self) -> bool:
        """Whether it all fits into free memory; True where nobody knows."""
        return self.free_bytes is None or self.needed_bytes <= self.free_bytes


def pass_bytes(adapter: Adapter, rows: int, logit_rows: int) -> int:
    """Bytes of the activations of a pass of so many rows, an upper bound.

    Per row: the residual, its normed copy, q, k, v, the attention's output, and the MLP's two wide
    rows and their product; per logit row its logits, once in their dtype and once in float32.
    """
    heads = adapter.num_heads + adapter.num_kv_heads
    row = 3 * adapter.width + 2 * heads * adapter.head_dim + 3 * adapter.mlp_width
    logits = logit_rows * adapter.vocab_size * (adapter.dtype.itemsize + 4)
    return rows * row * adapter.dtype.itemsize + logits


def capacity(
    adapter: Adapter, sequences: int, tokens: int, length: int, block_length: int, held: int = 0
) -> Capacity:
    """The `Capacity` for `sequences` canvases of up to `length`, and `tokens` K/V slots in all;
    `held`: bytes of buffers that are there already.
    """
    slot = slot_bytes(adapter)
    canvas = 3 * 8 * length * (2 * sequences + 1)
    # Everybody's rows at once, and everybody's block at the head.
    activations = pass_bytes(adapter, tokens, sequences * block_length)
    free = devices.free_bytes(adapter.device)
    most = None
    if free is not None:
        free += held
        per_slot = slot + pass_bytes(adapter, 1, 0)
        fixed = canvas + pass_bytes(adapter, 0, sequences * block_length)
        most = max(0, (free - fixed) // per_slot)
    return Capacity(slot, tokens * slot, canvas, activations, free, most)
