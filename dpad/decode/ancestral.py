"""Ancestral sampling of masked diffusion, and ReMDM, which masks again: times on the host, the race
of token and mask on the device.

In a step from time t to s each mask becomes a token with weight a p(token), or stays with weight b;
each token stays with weight 1 - sigma, or becomes a mask again with weight sigma. Sources: MDLM
(arXiv 2406.07524), ReMDM (arXiv 2503.00307). The last step takes the best token of what is left.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from dpad.decode.adaptive import WIDTH
from dpad.decode.layout import Targets
from dpad.values import one_of, real, refuse

if TYPE_CHECKING:
    from dpad.decode.canvas import Canvas

EPS = 1e-5  # the last of the published times
# Columns of the numbers of a step.
MASKED, STAYS, SIGMA, BY_CONFIDENCE, FINAL, BY_ZERO = range(WIDTH)
_NEVER = -1e4  # the logarithm of a weight of nearly 0
_ETA = {"cap": 0.008, "rescale": 0.015, "loop": 0.02}
_TIMES = {"t_on": 0.55, "t_off": 0.05, "alpha_on": 0.9}
KINDS = (*_ETA, "conf", "forward-backward")


@dataclass(frozen=True)
class Remask:
    """Ancestral sampling that masks tokens again (ReMDM, arXiv 2503.00307), for `remask=`.

    Args:
        kind: of the probability sigma that a token is masked again, alpha_t = 1 - t, at most
            sigma_max = (1 - alpha_s) / alpha_t and 1: "cap", min(eta, sigma_max); "rescale", eta
            sigma_max; "conf", sigma_max times the soft-max over the block's tokens of minus their
            probability when they were committed; "loop", plain sampling up to `alpha_on` until
            `t_on`, eta with `alpha_on` fixed until `t_off`, plain sampling to the end;
            "forward-backward", (alpha_s - alpha_t) / alpha_t.
        eta: of "cap" (0.008), "rescale" (0.015) and "loop" (0.02); the published values hold where
            it is None. 0: ancestral sampling.
        t_on, t_off, alpha_on: of "loop" (0.55, 0.05, 0.9).

    Raises:
        ValueError: a value out of range, or one that its kind does not use.
    """

    kind: str
    eta: float | None = None
    t_on: float | None = None
    t_off: float | None = None
    alpha_on: float | None = None

    def __post_init__(self) -> None:
        one_of(*KINDS)("Remask.kind", self.kind)
        used = {"eta": _ETA[self.kind]} if self.kind in _ETA else {}
        used |= _TIMES if self.kind == "loop" else {}
        for name in ("eta", *_TIMES):
            value = getattr(self, name)
            if name not in used:
                if value is not None:
                    raise ValueError(f"Remask.{name} = {value!r} has no meaning for {self.kind!r}")
                continue
            check = real(0, 1, above=name == "t_off")
            found = check(f"Remask.{name}", used[name] if value is None else value)
            object.__setattr__(self, name, float(found))
        if self.kind == "loop" and not self.t_off < self.t_on < 1:  # type: ignore[operator]
            refuse("Remask.t_on", self.t_on, f"a number between t_off = {self.t_off} and 1")
        if self.kind == "loop" and self.alpha_on == 1:
            refuse("Remask.alpha_on", self.alpha_on, "a number below 1")

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def remask(name: str, value: Any) -> Remask:
    """A `Remask`, its kind, or a dict of its fields; ValueError for anything else."""
    if isinstance(value, Remask):
        return value
    given = {"kind": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or set(given) - set(Remask.__dataclass_fields__):
        fields = ", ".join(Remask.__dataclass_fields__)
        refuse(name, value, f"a dpad.Remask, its kind, or a dict of its fields ({fields})")
    return Remask(**{"kind": None, **given})


def numbers(
    remask: Remask | None, time: float | None, step: float, by_zero: bool = False
) -> tuple[float, ...]:
    """What the device is told of the step from time t to t - `step`; None: of the last one, which
    `by_zero` is as in BD3-LM's program: all weights are infinite or, outside the nucleus, no
    numbers.
    """
    a, b, sigma = (1.0, 0.0, 0.0) if time is None else _weights(remask, time, time - step)
    flags = float(remask is not None and remask.kind == "conf"), float(time is None)
    return (a, b, sigma, *flags, float(by_zero and time is None))


def _weights(remask: Remask | None, t: float, s: float) -> tuple[float, float, float]:
    """(a, b, sigma) of a step."""
    if remask is None:
        return t - s, s, 0.0
    kind, eta = remask.kind, remask.eta or 0.0
    if kind == "loop":
        on, off, alpha = (cast("float", x) for x in (remask.t_on, remask.t_off, remask.alpha_on))
        if t > on:
            t, s = (1 - (1 - x) * alpha / (1 - on) for x in (t, s))
            return t - s, s, 0.0
        if t <= off:
            t, s = (x * (1 - alpha) / off for x in (t, s))
            return t - s, s, 0.0
        return _renoised(alpha, alpha, eta)
    alpha_t, alpha_s = 1 - t, 1 - s
    most = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0
    if kind == "conf":
        return *_renoised(alpha_t, alpha_s, 0.0)[:2], most
    if kind == "cap":
        return _renoised(alpha_t, alpha_s, min(eta, most))
    if kind == "rescale":
        return _renoised(alpha_t, alpha_s, eta * most)
    return _renoised(alpha_t, alpha_s, (alpha_s - alpha_t) / alpha_t if alpha_t > 0 else 1.0)


def _renoised(alpha_t: float, alpha_s: float, sigma: float) -> tuple[float, float, float]:
    """The weights of masks whose tokens are masked again with probability sigma."""
    a = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    return a, max((1 - alpha_s - sigma * alpha_t) / (1 - alpha_t), 0.0), sigma


class Race:
    """A draw that decides each row of a pass: one of the tokens, or the mask.

    `logits` ``[rows, vocab]``: what is drawn from; `at_random` float64 ``[batch]``: 0 in the last
    step, which takes the best, else 1; `again` bool ``[rows]``, once it is decided: tokens that
    are masked again.

    Args:
        filtered: logits ``[rows, vocab]``, the mask id at -inf.
        of: float64 ``[batch, WIDTH]``, the `numbers` of each sequence.
    """

    def __init__(
        self,
        filtered: torch.Tensor,
        targets: Targets,
        canvas: "Canvas",
        of: torch.Tensor,
        mask_id: int,
    ) -> None:
        self._filtered, self._mask_id = filtered, mask_id
        self.again: torch.Tensor | None = None
        self.at_random = 1 - of[:, FINAL]
        at = targets.places()
        token = canvas.tokens[at]
        self._masked = token == mask_id
        # What was never committed, as text that is filled in around, stays.
        committed = torch.where(canvas.committed_at[at] >= 0, canvas.committed[at], torch.inf)
        sigma = _sigma(targets, committed, of)
        token_wins = torch.where(self._masked, targets.spread(of[:, MASKED]), 1 - sigma)
        mask_wins = torch.where(self._masked, targets.spread(of[:, STAYS]), sigma)
        own = torch.full_like(filtered, -torch.inf).scatter(-1, token[:, None], 0.0)
        self.logits = torch.where(self._masked[:, None], filtered.log_softmax(-1), own)
        self.logits += torch.log(token_wins).clamp(min=_NEVER).to(filtered.dtype)[:, None]
        self.logits[:, mask_id] = torch.log(mask_wins).to(filtered.dtype)
        # The first id that is no number wins, or the first one.
        outside = (filtered == -torch.inf).to(filtered.dtype)
        outside[:, mask_id].fill_(-torch.inf)
        divided = self._masked & (targets.spread(of[:, BY_ZERO]) > 0)
        self.logits = torch.where(divided[:, None], outside, self.logits)

    def decided(
        self, token: torch.Tensor, probability: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(the token to commit, what the operator ranks) of each row: 0 where a token was drawn, 1
        where the mask, NaN for NaN logits.
        """
        to_mask = token == self._mask_id
        self.again = to_mask & ~self._masked
        best = self._filtered.argmax(-1)  # what is predicted where nothing is committed
        ranked = torch.where(probability.isnan(), probability, to_mask.double())
        return torch.where(to_mask, best, token), ranked


def _sigma(targets: Targets, committed: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """The probability that each row's token is masked again; `committed`: that of its commit, or
    infinite.
    """
    sequence = targets.spread(torch.arange(of.shape[0], device=of.device))
    weight = torch.exp(-committed)
    total = torch.zeros_like(of[:, 0]).index_add_(0, sequence, weight)
    by_confidence = targets.spread(of[:, BY_CONFIDENCE]) > 0
    share = torch.where(by_confidence, weight / targets.spread(total), (weight > 0).double())
    # Without a token there is nothing to share out.
    return targets.spread(of[:, SIGMA]) * share.nan_to_num(0.0)
