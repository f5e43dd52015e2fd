"""Adaptive commit rules that others published, as options: `commit=dpad.rules.Klass()`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from dpad.values import real, refuse, whole

_SHARE = real(0, 1)
MOST_NUMBERS = 4  # of one rule


@dataclass(frozen=True)
class Named:
    """Options in one object: fields that are checked, and saved as a dict with `kind`, its name."""

    kind: ClassVar[str]
    fields: ClassVar[dict[str, Callable[[str, Any], Any]]] = {}

    def __post_init__(self) -> None:
        for name, check in self.fields.items():
            value = check(f"{type(self).__name__}.{name}", getattr(self, name))
            object.__setattr__(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        """Its kind and fields as plain values."""
        return {"kind": self.kind, **asdict(self)}


class AdaptiveRule(Named):
    """A commit rule that decides about each position by a few numbers.

    In each step the positions it accepts are committed, and always one: the most probable, or what
    `dpad.decode.adaptive` says of the rule. `remembers`: it keeps a number per id of the vocabulary
    for each position of the block (float32), from step to step of the block.
    """

    remembers: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False

    def numbers(self) -> tuple[float, ...]:
        """What the device is told of it."""
        return tuple(float(getattr(self, name)) for name in self.fields)


@dataclass(frozen=True)
class Streaming(AdaptiveRule):
    """Streaming-dLLM (arXiv 2601.17917): probability >= threshold (1 - alpha (1 - r)), r the masks
    that are left of the block.

    Its suffix is ``Suffix("window", window=96, keep_last=True)``. Published `alpha`: 0.1 to 0.6 by
    task. The released code counts the masks of the kept suffix into r, the paper does not.
    """

    kind = "streaming"
    fields: ClassVar = {"threshold": real(0), "alpha": _SHARE}
    threshold: float = 0.9
    alpha: float = 0.3


@dataclass(frozen=True)
class Klass(AdaptiveRule):
    """KLASS (arXiv 2511.05664): probability > threshold, and in each of the last `stable` steps
    KL(p || p of the step before) < divergence.

    Published for LLaDA (GSM8K, MATH, HumanEval, MBPP): threshold 0.6, 0.6, 0.9, 0.7, divergence
    0.015, then 0.01; for Dream 0.9, 0.9, 0.8, 0.9 and 0.001, 0.005, 0.001, 0.001; stable 2. The
    released code looks at the positions of later blocks too, so that they enter their block with a
    history; here it begins with the block.
    """

    kind = "klass"
    remembers = True
    fields: ClassVar = {"threshold": real(0), "divergence": real(0), "stable": whole(1, 2**20)}
    threshold: float = 0.9
    divergence: float = 0.01
    stable: int = 2


@dataclass(frozen=True)
class Credit(AdaptiveRule):
    """CreditDecoding (arXiv 2510.06133): probability >= threshold of softmax(logits + alpha log(1 +
    credit)). In each step a position's credits are multiplied by `beta`, and its best id gains
    p^gamma. Defaults are those of the released decoder (dInfer).
    """

    kind = "credit"
    remembers = True
    fields: ClassVar = {"threshold": real(0), "alpha": real(0), "gamma": real(0), "beta": _SHARE}
    threshold: float = 0.9
    alpha: float = 0.7
    gamma: float = 0.2
    beta: float = 0.8


@dataclass(frozen=True)
class Prophet(AdaptiveRule):
    """Prophet (arXiv 2508.19982): everything, as soon as the mean gap between the two best logits
    reaches `early`, `middle` or `late` in the first 33 %, up to 67 %, or the rest of the steps.
    Until then the quota of `steps`, or one token per step.

    The mean is that of the block's masks, and the block is what is committed; with one block
    that is the whole answer. The released code asks for the place of a short answer instead, and
    takes the mean there.
    """

    kind = "prophet"
    takes_steps = True
    fields: ClassVar = {"early": real(0), "middle": real(0), "late": real(0)}
    early: float = 7.5
    middle: float = 5.0
    late: float = 2.5


@dataclass(frozen=True)
class LocalLeap(AdaptiveRule):
    """LocalLeap (arXiv 2510.07081): probability >= threshold (the anchors), or >= relaxed within
    `radius` positions of one.
    """

    kind = "leap"
    fields: ClassVar = {"threshold": real(0), "relaxed": real(0), "radius": whole(0, 2**20)}
    threshold: float = 0.9
    relaxed: float = 0.75
    radius: int = 4


@dataclass(frozen=True)
class StablePrefix(AdaptiveRule):
    """Longest stable prefix (after arXiv 2603.05454): from the first mask on, up to the first mask
    whose probability is below the threshold; at least the first mask.

    The paper also moves the end of the run to a delimiter of the text, and adapts its length; this
    rule knows no texts.
    """

    kind = "prefix"
    fields: ClassVar = {"threshold": real(0)}
    threshold: float = 0.9


KINDS: dict[str, type[AdaptiveRule]] = {
    rule.kind: rule for rule in (Streaming, Klass, Credit, Prophet, LocalLeap, StablePrefix)
}


def adaptive_rule(name: str, value: Any) -> AdaptiveRule:
    """An `AdaptiveRule`, its name, or a dict of its `kind` and fields."""
    return named(KINDS, "rule of dpad.rules", name, value)


def named(known: Mapping[str, type[Any]], what: str, name: str, value: Any) -> Any:
    """One of the `known` kinds of `Named` options from an object, its kind, or a dict of both.

    Raises:
        ValueError: something else, or a kind or field that is not known, by `name`.
    """
    if isinstance(value, tuple(known.values())):
        return value
    given = {"kind": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or given.get("kind") not in known:
        refuse(name, value, f"a {what}, or its name: {', '.join(known)}")
    options = {n: v for n, v in given.items() if n != "kind"}
    found = known[given["kind"]]
    unknown = sorted(map(str, set(options) - set(found.fields)))
    if unknown:
        fields = ", ".join(found.fields)
        raise ValueError(
            f"{name} holds {', '.join(unknown)}: the fields of {found.kind} are {fields}"
        )
    return found(**options)
