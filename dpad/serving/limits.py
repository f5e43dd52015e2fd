"""What a client may ask for at most."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one request to the server.

    `body` bytes; `choices`: answers of a request, prompts times n; `stops` strings of `stop_length`
    characters; `seconds` until its deadline, waiting included.
    """

    body: int = 2**20
    choices: int = 16
    stops: int = 16
    stop_length: int = 256
    seconds: float = 600.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"{name} = {value!r}: expected a number above 0")
