"""Row keys that follow from numbers, whatever the process."""

import struct
from hashlib import blake2b


def key_of(*numbers: int) -> int:
    """A row key that follows from 64-bit integers."""
    digest = blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
