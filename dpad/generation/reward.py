"""A reward in the loop of ancestral sampling: gradients first, the best of several draws then."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from dpad import ops
from dpad.decode.ancestral import MASKED, STAYS
from dpad.decode.canvas import Canvas
from dpad.decode.filters import filter_logits
from dpad.decode.layout import Targets
from dpad.decode.sequence import Sequence
from dpad.generation.config import DPadGenerationConfig
from dpad.generation.processing import plain_mode
from dpad.ops import reference
from dpad.values import real, whole

_FAR = -1e9  # log-probability of what a committed token is not
_CANDIDATE = 1 << 24  # draws of candidates are keyed by forwards that no sequence reaches


@dataclass(frozen=True)
class Reward:
    """Ancestral sampling towards a reward (DiDi-Instruct's sampler, arXiv 2509.25035), for
    `reward=`.

    Args:
        score: a function (tokens, log_probs) -> score, a tensor ``[]`` or ``[n]``. `tokens` int64
            ``[n]``: the text up to the end of the block, the mask id where it is not decided;
            `log_probs` float32 ``[n, vocab]``: the model's at those, and 0 at the token, -1e9
            elsewhere, at the others. It runs in plain torch, and has to be differentiable in
            `log_probs` unless `share` is 1.
        share: of a block's steps in which candidates are scored, the last ones. In those before,
            log p of the masks is moved by a strength times the gradient of the score, each entry
            of which is cut to [-1, 1]; of a score per position the sum over the masks counts.
        candidates: drawn in each step of the last ones; one is chosen by softmax over their scores,
            sums over all positions.
        first_strength, last_strength: of the gradient; it grows linearly from step to step.

    Raises:
        TypeError: `score` is no function.
        ValueError: a number out of range.
    """

    fields: ClassVar = {
        "share": real(0, 1),
        "candidates": whole(1, 4096),
        "first_strength": real(0),
        "last_strength": real(0),
    }
    score: Callable[..., Any]
    share: float = 0.5
    candidates: int = 4
    first_strength: float = 30.0
    last_strength: float = 40.0

    def __post_init__(self) -> None:
        if not callable(self.score):
            raise TypeError(f"Reward.score = {self.score!r}: expected a function")
        for name, check in self.fields.items():
            object.__setattr__(self, name, check(f"Reward.{name}", getattr(self, name)))


def check_reward(given: Any, config: DPadGenerationConfig, noise: object) -> Reward | None:
    """The `Reward` of a call, or None.

    Raises:
        TypeError: neither a `Reward` nor a function.
        ValueError: another sampler than the ancestral one, or noise supplied beside it.
    """
    if given is None:
        return None
    reward = given if isinstance(given, Reward) else Reward(given)
    if config.alg != "ancestral" or config.remask is not None:
        other = "alg" if config.remask is None else "remask"
        value = getattr(config, other)
        raise ValueError(f"reward is given and {other} = {value!r}: it goes with alg='ancestral'")
    if noise is not None:
        raise ValueError("reward and noise are both given: candidates are drawn here")
    return reward


class Rewarded:
    """A `Reward` in the steps of a call: it moves the logits of a pass, or chooses its noise."""

    def __init__(self, reward: Reward, processors: Callable[..., Tensor] | None = None) -> None:
        self.reward, self.processors = reward, processors
        self._noise: Tensor | None = None

    def process_logits(
        self, live: list[Sequence], targets: Targets, logits: Tensor, canvas: Canvas
    ) -> Tensor:
        """For `Hooks.process_logits`; the noise of the same pass is decided here, too."""
        if self.processors is not None:
            logits = self.processors(live, targets, logits, canvas)
        bounds = targets.l_offsets.tolist()
        with plain_mode():
            parts = [
                self._part(q, logits[a:b].clone(), targets.position[a:b].clone(), canvas)
                for q, a, b in zip(live, bounds, bounds[1:], strict=False)
            ]
        self._noise = torch.cat([noise for _, noise in parts])
        return torch.cat([moved for moved, _ in parts])

    def noise(self, live: list[Sequence], positions: Tensor, vocab: int) -> Tensor:
        """For `Hooks.noise`: that of the pass whose logits came last."""
        return cast("Tensor", self._noise)

    def _part(
        self, q: Sequence, logits: Tensor, position: Tensor, canvas: Canvas
    ) -> tuple[Tensor, Tensor]:
        """(logits, noise) of one sequence; `position` int64 ``[rows]`` of its targets."""
        steps, vocab = q.schedule.steps_of(q.block), logits.shape[-1]
        first = int(steps * (1 - self.reward.share))
        noise = self._drawn(q, position, vocab, 0)
        if q.phase == "next" or q.step >= steps:
            return logits, noise
        text = canvas.tokens[q.row, : int(position[-1]) + 1].clone()
        barred = torch.tensor((*q.sampling.suppress, q.mask_id), device=logits.device)
        scale = q.sampling.temperature
        log_p = logits.float().index_fill(-1, barred, -torch.inf).div(scale).log_softmax(-1)
        if q.step < first:
            moved = self._tilted(q, log_p, position, text, q.step / max(first - 1, 1))
            return (moved * scale).to(logits.dtype), noise
        if self.reward.candidates > 1:
            noise = self._best(q, log_p, position, text, noise)
        return logits, noise

    def _tilted(
        self, q: Sequence, log_p: Tensor, position: Tensor, text: Tensor, progress: float
    ) -> Tensor:
        """Log p of the masks, moved by the gradient of the score."""
        reward, masked = self.reward, text[position] == q.mask_id
        strength = reward.first_strength * (1 - progress) + reward.last_strength * progress
        with torch.enable_grad():
            leaf = log_p.clamp(min=_FAR).requires_grad_()
            score = self._score(q, text, self._whole(text, position, leaf, q.mask_id))
            if score.dim():
                score = (score * (text == q.mask_id)).sum()
            if not score.requires_grad:
                raise ValueError(
                    "reward: the score does not depend on log_probs by operations that torch can "
                    "differentiate; with share=1 only candidates are scored"
                )
            (gradient,) = torch.autograd.grad(score, leaf)
        return log_p + strength * gradient.clamp(-1, 1) * masked[:, None]

    def _best(
        self, q: Sequence, log_p: Tensor, position: Tensor, text: Tensor, noise: Tensor
    ) -> Tensor:
        """The noise of one of the candidates, drawn by the softmax of their scores."""
        told = cast("tuple[float, ...]", q.schedule.numbers(q))
        a, b = told[MASKED], told[STAYS]
        sampling, column = q.sampling, log_p[:, :1]
        top_p = None if sampling.top_p is None else torch.full_like(column, sampling.top_p)
        top_k = None
        if sampling.top_k is not None:
            top_k = torch.full_like(position[:, None], sampling.top_k)
        kept = filter_logits(log_p, torch.ones_like(column), top_p, top_k, within=True)
        kept = kept.log_softmax(-1)
        race = (kept + torch.log(torch.tensor(a))).double()
        race[:, q.mask_id] = torch.log(torch.tensor(b, dtype=torch.float64))
        masked, scores, drawn = text[position] == q.mask_id, [], [noise]
        for number in range(self.reward.candidates):
            if number:
                drawn.append(self._drawn(q, position, log_p.shape[-1], number))
            tokens = text.clone()
            chosen = (race + drawn[-1]).argmax(-1)
            tokens[position] = torch.where(masked, chosen, text[position])
            whole = self._whole(tokens, position, log_p.clamp(min=_FAR), q.mask_id)
            scores.append(self._score(q, tokens, whole).detach().sum().double())
        keys, at = self._keys(q, log_p.device, 0), torch.arange(len(scores), device=log_p.device)
        uniform = ops.uniform(keys, torch.tensor([0, len(scores)], device=at.device), at)
        return torch.stack(drawn)[(torch.stack(scores) - torch.log(-torch.log(uniform))).argmax()]

    def _score(self, q: Sequence, tokens: Tensor, log_probs: Tensor) -> Tensor:
        score = self.reward.score(tokens, log_probs)
        if not isinstance(score, torch.Tensor) or list(score.shape) not in ([], [len(tokens)]):
            got = list(score.shape) if isinstance(score, torch.Tensor) else type(score).__name__
            raise ValueError(f"reward returned {got}: expected a tensor [] or [{len(tokens)}]")
        if score.isnan().any():
            raise ValueError("reward returned NaN: expected numbers")
        return score

    @staticmethod
    def _whole(tokens: Tensor, position: Tensor, log_p: Tensor, mask_id: int) -> Tensor:
        """Log-probabilities ``[n, vocab]`` of a text: the model's at masks, else of its token."""
        shape = (len(tokens), log_p.shape[-1])
        known = torch.full(shape, _FAR, device=log_p.device).scatter(-1, tokens[:, None], 0.0)
        masked = (tokens[position] == mask_id)[:, None]
        return known.index_copy(0, position, torch.where(masked, log_p, known[position]))

    @staticmethod
    def _keys(q: Sequence, device: torch.device, candidate: int) -> Tensor:
        forward = len(q.forwards) + candidate * _CANDIDATE
        return torch.tensor([[q.seed, q.row_key, forward]], device=device)

    def _drawn(self, q: Sequence, position: Tensor, vocab: int, candidate: int) -> Tensor:
        """Gumbel noise of the library's own stream; that of candidate 0 is what is drawn anyway."""
        offsets = torch.tensor([0, len(position)], device=position.device)
        keys = self._keys(q, position.device, candidate)
        return reference.gumbel(keys, offsets, position, vocab)
