"""Values that a user sets: what each kind of them takes, and what is said of anything else.

A kind is a function (name, value) that returns the value as it is kept, in plain Python: numbers
may come as NumPy scalars, or as arrays and tensors without dimensions. Whatever it does not take is
a ValueError that holds the name, the value and what is expected.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

Kind = Callable[[str, Any], Any]
T = TypeVar("T")
E = TypeVar("E", bound=Exception)
INT64 = range(-(2**63), 2**63)
# Bounds of sizes: what is beyond is a slip of the hand, and would fill the memory.
MOST_POSITIONS = 2**20
MOST_CONTEXT = 2**31
MOST_LAYERS = 2**10
MOST_WIDTH = 2**20
MOST_IDS = 2**24
MOST_ROWS = 2**16


def plain(value: Any) -> Any:
    """The Python number in a NumPy scalar, or in an array or tensor without dimensions."""
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (RuntimeError, NotImplementedError):  # a tensor without data
        return value


def as_plain(value: Any) -> Any:
    """An option as JSON can hold it: objects of options become dicts of their fields."""
    return value.as_dict() if hasattr(value, "as_dict") else value


def shown(value: object) -> str:
    """`value` as a message shows it."""
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits
        bits = value.bit_length() if isinstance(value, int) else 0
        text = f"a {type(value).__name__} of {bits} bits"
    return text if len(text) <= 100 else f"{text[:97]}..."


def about(*options: str) -> Callable[[str], ValueError]:
    """message -> a ValueError that knows the options it is about; their order is the message's."""
    return lambda message: mark(ValueError(message), *options)


def mark(error: E, *options: str) -> E:
    """`error`, which from now on is about these options; see `options_of`."""
    error.__dict__["options"] = options
    return error


def options_of(error: object) -> tuple[str, ...]:
    """Names of the options that an error is about; empty where nobody has said it."""
    return getattr(error, "options", ())


def refuse(name: str, value: object, expected: str) -> NoReturn:
    """Raises the ValueError of a value that is not what it should be."""
    raise about(name)(f"{name} = {shown(value)}: expected {expected}")


def whole(low: int, high: int | None = None) -> Callable[[str, Any], int]:
    """A whole number from `low` to `high`; None: as far as 64 bits go."""
    span = f">= {low}" if high is None else f"from {low} to {high}"

    def check(name: str, value: Any) -> int:
        number = plain(value)
        good = isinstance(number, int) and not isinstance(number, bool)
        if not good or not low <= number <= (INT64[-1] if high is None else high):
            refuse(name, value, f"a whole number {span}")
        return number

    return check


def int64(name: str, value: Any) -> int:
    """A 64-bit integer."""
    number = plain(value)
    if not isinstance(number, int) or isinstance(number, bool) or number not in INT64:
        refuse(name, value, "a 64-bit integer")
    return number


def number(name: str, value: Any) -> float:
    """Any number but NaN; infinity too."""
    found = plain(value)
    good = isinstance(found, (int, float)) and not isinstance(found, bool)
    if not good or (not _is_finite(found) if isinstance(found, int) else math.isnan(found)):
        refuse(name, value, "a number")
    return found


def real(low: float, high: float = math.inf, above: bool = False) -> Callable[[str, Any], float]:
    """A finite number from `low` to `high`; `above`: `low` itself is not taken."""
    span = f"a finite number {'>' if above else '>='} {low}"
    if math.isfinite(high):
        span = f"a number above {low}, up to {high}" if above else f"a number from {low} to {high}"

    def check(name: str, value: Any) -> float:
        number = plain(value)
        good = isinstance(number, (int, float)) and not isinstance(number, bool)
        if not good or not low <= number <= high or not _is_finite(number):
            refuse(name, value, span)
        if above and number == low:
            refuse(name, value, span)
        return number

    return check


def _is_finite(number: float) -> bool:
    """Whether it is a finite float64."""
    try:
        return math.isfinite(number)
    except OverflowError:  # an int beyond all floats
        return False


def flag(name: str, value: Any) -> bool:
    """True or False; nothing else stands for them, no text and no number."""
    found = plain(value)
    if not isinstance(found, bool):
        refuse(name, value, "True or False")
    return found


def optional(kind: Callable[[str, Any], T]) -> Callable[[str, Any], T | None]:
    """A kind that takes None too."""
    return lambda name, value: None if value is None else kind(name, value)


def one_of(*choices: str) -> Callable[[str, Any], str]:
    """One of some strings."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            refuse(name, value, f"one of {', '.join(choices)}")
        return value

    return check


def function(name: str, value: Any) -> Callable[..., Any]:
    """Something that can be called; TypeError for anything else."""
    if not callable(value):
        raise TypeError(f"{name} is a {type(value).__name__}: expected a callable")
    return value


def entries(name: str, value: Any, expected: str) -> Iterable[Any]:
    """Something that can be iterated over, and no text; TypeError for anything else."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} = {shown(value)}: expected {expected}")
    return value


def several(
    kind: Callable[[str, Any], T], expected: str, least: int = 0
) -> Callable[[str, Any], list[T]]:
    """A list (tuple, array, tensor of one dimension) whose entries are all of a kind."""

    def check(name: str, value: Any) -> list[T]:
        found = _listed(value) if getattr(value, "ndim", None) == 1 else value
        listed = isinstance(found, Sequence) and not isinstance(found, (str, bytes))
        if not listed or len(found) < least:
            refuse(name, value, expected)
        return [kind(f"{name}[{i}]", entry) for i, entry in enumerate(found)]

    return check


def _listed(value: Any) -> Any:
    """The entries of an array or tensor; itself where it holds no data."""
    try:
        return value.tolist()
    except (RuntimeError, NotImplementedError):
        return value


_one_id = whole(0)
_some_ids = several(_one_id, "a token id, or a list of at least one", least=1)


def token_id(name: str, value: Any) -> int:
    """An id of a vocabulary."""
    return _one_id(name, value)


def token_ids(name: str, value: Any) -> int | list[int]:
    """An id of a vocabulary, or a list of them."""
    number = plain(value)
    if isinstance(number, int) and not isinstance(number, bool):
        return token_id(name, number)
    return _some_ids(name, value)
