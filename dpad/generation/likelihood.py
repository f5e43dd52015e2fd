"""`loglikelihood`: how probable a masked-diffusion model finds given answers, by Monte Carlo."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from dpad import ops
from dpad.decode.canvas import Canvas
from dpad.decode.commit import fixed_quota
from dpad.decode.decoder import NaNLogitsError
from dpad.decode.forward import guided, logits_of_pass
from dpad.decode.lane import Sampling
from dpad.decode.plan import Planner
from dpad.decode.sequence import Sequence
from dpad.decode.suffix import Suffix
from dpad.decode.workspace import Workspace
from dpad.generation.block_likelihood import by_blocks, losses
from dpad.generation.checks import mask_id_of, refuse_unserved
from dpad.generation.progress import check_progress
from dpad.generation.row_key import key_of
from dpad.models.adapter import Adapter, find_adapter
from dpad.values import entries, int64, plain, real, refuse, several, token_id, whole

MOST_SAMPLES = 2**20
Texts = list[tuple[torch.Tensor, int]]  # ids of prompt and answer, length of the prompt


@dataclass
class LogLikelihood:
    """What `loglikelihood` found, in the order of its pairs.

    `value` (nats) and `standard_error` are float64 ``[pairs]``; `canvases`, int64 ``[pairs]``, is
    the number of distinct masked canvases that were computed; `seed` that of the draws.
    """

    value: torch.Tensor
    standard_error: torch.Tensor
    canvases: torch.Tensor
    seed: int


def loglikelihood(
    model: torch.nn.Module,
    pairs: Iterable[tuple[Any, Any]],
    *,
    samples: int = 128,
    cfg_scale: float = 0.0,
    seed: int | None = 0,
    row_keys: list[int] | None = None,
    micro_batch: int | None = 32,
    mask_token_id: int | None = None,
    progress: bool = False,
) -> LogLikelihood:
    """Lower bound of the log-probability of each answer behind its prompt, with standard error.

    The bound is the expectation of ``L / l`` times the summed log-probabilities of l masked tokens,
    l uniform in 1..L and the masked set uniform among those of size l (LLaDA, arXiv 2502.09992,
    eq. 6 and algorithm 3): the mean over all orders of generating the L tokens one by one. Half as
    many strata of l as `samples` get two draws each, so that the standard error is unbiased in its
    square. An answer with no more masks than `samples` (one token: a single mask) gets all of them:
    its value is exact and its standard error 0.

    The masks follow from the seed and the pair's own tokens, whatever is computed beside it, in
    which order and in which process. The log-probabilities may differ with the batch in their
    last bits, as matrix products do (float32: 1e-5 relative); not with ``micro_batch=1``.

    With block-causal attention the bound is the sum of those of the blocks, each given the clean
    ones before it, as the model generates them; what of the last block lies behind the answer stays
    masked. `samples` are drawn for each block: all masks of a block of 4 are 15, and the value is
    exact. Where a row predicts the next position, a block's first token comes from the block before
    it with no mask at all. A mask that is no token of the model's distribution (BD3-LM) has
    probability 0.

    Args:
        model: one that `dpad.generate` takes, patched or not; it is not changed.
        pairs: (prompt ids, answer ids), lists or 1-D integer tensors, without padding. Answers
            hold at least one token, prompts too where the model predicts from the predecessor.
        samples: masks drawn per answer, or per block of one, an even number.
        cfg_scale: classifier-free guidance w: logits u + (w + 1)(c - u), u with the prompt masked
            (eq. 16 of the paper); 0 is off.
        seed: of the draws; None takes one from torch's default generator.
        row_keys: one int per pair, what its draws are keyed by instead of its tokens. A common key
            for the choices of one question gives those of equal length the same masks.
        micro_batch: masked canvases, or blocks, computed together at most; None: all.
        mask_token_id: default the model's.
        progress: show a bar that counts masked canvases (tqdm.auto).

    Returns:
        `LogLikelihood`.

    Raises:
        TypeError, ValueError: a bad argument, by name and value, before any work.
        UnsupportedModelError: not a model that dpad knows.
        MemoryError: the K/V cache does not fit, with the bytes.
        NaNLogitsError: the model gave NaN logits; the message names the pair.
    """
    handle = getattr(model, "_dpad_handle", None)
    adapter = handle.adapter if handle is not None else find_adapter(model)
    refuse_unserved(adapter)
    samples = check_samples("samples", samples)
    cfg_scale = 0.0 if cfg_scale is None else float(real(0)("cfg_scale", cfg_scale))
    micro_batch = None if micro_batch is None else whole(1)("micro_batch", micro_batch)
    if mask_token_id is not None:
        mask_token_id = token_id("mask_token_id", mask_token_id)
    check_progress(progress)
    mask_id = mask_id_of(adapter, mask_token_id)
    texts = checked_texts(pairs, adapter, mask_id)
    keys = _row_keys(row_keys, texts)
    if seed is None:
        seed = int(torch.randint(2**63 - 1, (1,), device="cpu"))
    seed = int64("seed", seed)
    with handle.workspace() if handle is not None else nullcontext(Workspace()) as workspace:
        scored = by_blocks if adapter.attention == "block-causal" else _at_once
        model_parts = adapter, workspace.arena, mask_id, cfg_scale
        draw = partial(_masks, samples, seed)
        found = scored(model_parts, texts, keys, draw, micro_batch, progress)
    value, error = _host([row[:2] for row in found], torch.float64).reshape(-1, 2).unbind(1)
    return LogLikelihood(value, error, _host([row[2] for row in found], torch.int64), seed)


def _at_once(
    model_parts: tuple[Any, ...],
    texts: Texts,
    keys: list[int],
    draw: Callable[[int, int], "_Masks"],
    micro_batch: int | None,
    progress: bool,
) -> list[tuple[float, float, int]]:
    """(value, standard error, canvases) of each text, whose whole answer is one block."""
    drawn = [draw(len(text) - p, key) for (text, p), key in zip(texts, keys, strict=True)]
    sums = _Scorer(*model_parts).run(texts, [d.mask for d in drawn], micro_batch, progress)
    return [(*d.estimate(s), len(s)) for d, s in zip(drawn, sums, strict=True)]


def _host(values: Any, dtype: torch.dtype) -> torch.Tensor:
    """A tensor on the CPU, whatever torch's default device is."""
    return torch.tensor(values, dtype=dtype, device="cpu")


def check_samples(name: str, value: Any) -> int:
    """A number of masks; ValueError for one that cannot be drawn in pairs."""
    number = plain(value)
    good = isinstance(number, int) and not isinstance(number, bool)
    if not good or number % 2 or not 2 <= number <= MOST_SAMPLES:
        refuse(name, value, f"an even number from 2 to {MOST_SAMPLES}")
    return number


def _ids(name: str, value: Any) -> torch.Tensor:
    """Token ids as int64 ``[length]`` on the CPU."""
    try:
        ids = torch.as_tensor(value, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} = {value!r}: expected token ids") from error
    if ids.dim() != 1:
        raise ValueError(f"{name} has shape {list(ids.shape)}: expected [length]")
    kind = ids.dtype
    if ids.numel() and (kind.is_floating_point or kind.is_complex or kind == torch.bool):
        raise ValueError(f"{name} has dtype {kind}: expected integer ids")
    return ids.to(torch.int64)


def checked_texts(pairs: Iterable[Any], adapter: Adapter, mask_id: int) -> Texts:
    """(ids of prompt and answer, length of the prompt) of each pair; errors as `loglikelihood`."""
    texts = []
    for number, pair in enumerate(entries("pairs", pairs, "(prompt ids, answer ids) of each")):
        name = f"pairs[{number}]"
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{name} = {pair!r}: expected (prompt ids, answer ids)")
        prompt, answer = _ids(f"{name}[0]", pair[0]), _ids(f"{name}[1]", pair[1])
        text, vocab = torch.cat((prompt, answer)), adapter.vocab_size
        bad = text[(text < 0) | (text >= vocab) | (text == mask_id)]
        if len(bad):
            what = "the mask id" if bad[0] == mask_id else f"the vocabulary has {vocab} ids"
            raise ValueError(f"{name} holds id {int(bad[0])}: {what}")
        if not len(answer):
            raise ValueError(f"{name} has an empty answer")
        if not len(prompt) and adapter.shift:
            raise ValueError(
                f"{name} has an empty prompt: this model predicts a token from its predecessor, "
                "start the prompt with its begin-of-text token"
            )
        if len(text) > adapter.max_positions:
            raise ValueError(
                f"{name}: prompt of {len(prompt)} + answer of {len(answer)} = {len(text)} "
                f"positions, the model has {adapter.max_positions}"
            )
        texts.append((text, len(prompt)))
    return texts


def _row_keys(given: Any, texts: Texts) -> list[int]:
    """What each pair's draws are keyed by: given, or a hash of the pair's tokens."""
    if given is not None:
        keys = several(int64, "a list of 64-bit integers")("row_keys", given)
        if len(keys) != len(texts):
            raise ValueError(f"row_keys holds {len(keys)} keys for {len(texts)} pairs")
        return keys
    return [key_of(prompt, *text.tolist()) for text, prompt in texts]


@dataclass
class _Masks:
    """The masks of one answer of L tokens: distinct ones, bool ``[masks, L]``.

    `draw`, int64 ``[samples]``, says which of them each draw took; draws 2 h and 2 h + 1 are the
    two of stratum h. It is None where the masks are all that there are.
    """

    mask: torch.Tensor
    draw: torch.Tensor | None

    def estimate(self, sums: torch.Tensor) -> tuple[float, float]:
        """Value and standard error from each mask's sum of log-probabilities, float64."""
        masked, length = self.mask.sum(1), self.mask.shape[1]
        if self.draw is None:
            weight = [1 / (n * math.comb(length, n)) for n in masked.tolist()]
            return float(sums @ _host(weight, torch.float64)), 0.0
        drawn = (sums * length / masked)[self.draw]
        value = float(drawn.mean())
        spread = float((drawn[0::2] - drawn[1::2]).norm()) / len(drawn)
        return value, spread if math.isfinite(value) else math.inf


def _masks(samples: int, seed: int, length: int, key: int) -> _Masks:
    """All masks of an answer, or `samples` drawn ones, from (seed, key, number of the draw)."""
    if length < 63 and 2**length - 1 <= samples:
        bit = _host(range(length), torch.int64)
        return _Masks((_host(range(1, 2**length), torch.int64)[:, None] >> bit) & 1 == 1, None)
    draws = _host(range(samples), torch.int64)
    rng = torch.stack((torch.full_like(draws, seed), torch.full_like(draws, key), draws), dim=1)
    position = _host(range(length + 1), torch.int64)
    offsets = _host(range(samples + 1), torch.int64) * (length + 1)
    u = ops.uniform(rng, offsets, position.repeat(samples)).view(samples, length + 1)
    share = (draws // 2 + u[:, -1]) / (samples // 2)  # in (0, 1], one stratum per two draws
    count = (share * length).ceil().clamp(1, length)
    rank = u[:, :-1].argsort(dim=1, stable=True).argsort(dim=1)
    return _Masks(*torch.unique(rank < count[:, None], dim=0, return_inverse=True))


class _Scorer:
    """Computes masked canvases in passes: nothing is padded, only masked rows reach the head."""

    def __init__(self, adapter: Adapter, arena: Any, mask_id: int, guidance: float) -> None:
        self.adapter, self.arena, self.mask_id = adapter, arena, mask_id
        self.sampling, self.planner = Sampling(guidance=guidance), Planner(adapter.shift)

    def run(
        self,
        texts: Texts,
        masks: list[torch.Tensor],
        micro_batch: int | None,
        progress: bool = False,
    ) -> list[torch.Tensor]:
        """Per text float64 ``[masks]``: the masked answer tokens' log-probabilities, summed."""
        jobs = [(pair, mask) for pair, of_pair in enumerate(masks) for mask in of_pair]
        if not jobs:
            return []
        size = min(micro_batch or len(jobs), len(jobs))
        lengths = sorted((len(texts[pair][0]) for pair, _ in jobs), reverse=True)
        streams = 2 if self.sampling.guidance else 1
        self.arena.reserve(self.adapter, streams * sum(lengths[:size]))
        sums = []
        bar = tqdm(total=len(jobs), unit="canvas", desc="dpad", disable=not progress)
        with torch.inference_mode(), bar:
            for first in range(0, len(jobs), size):
                part = jobs[first : first + size]
                found = self._pass([(*texts[pair], mask) for pair, mask in part])
                for (pair, _), value in zip(part, found, strict=True):
                    if math.isnan(value):
                        raise NaNLogitsError(f"the model gave NaN logits for pairs[{pair}]")
                sums += found
                bar.update(len(part))
        return _host(sums, torch.float64).split([len(m) for m in masks])

    def _pass(self, part: list[tuple[torch.Tensor, int, torch.Tensor]]) -> list[float]:
        """The sums of (text, length of its prompt, mask of its answer) in one pass."""
        device, start = self.adapter.device, 0
        live: list[Sequence] = []
        for row, (text, prompt, mask) in enumerate(part):
            q = self._noised(text, prompt, mask)
            q.row, q.start = row, start
            start += q.slots
            live.append(q)
        canvas = Canvas(len(live), max(q.length for q in live), device)
        canvas.load(live)
        layout = self.planner.layout(live).to(device)
        masked = canvas.eligible(layout.targets, self.mask_id)
        every = masked.repeat(layout.streams)
        offsets = F.pad(every.cumsum(0), (1, 0))[layout.l_offsets]
        rows = replace(layout, logit_row=layout.logit_row[every], l_offsets=offsets)
        tokens = canvas.gather(rows, self.mask_id)
        logits = logits_of_pass(self.adapter, tokens, rows, self.arena)
        if self.sampling.guidance:
            logits = guided(logits, self.sampling.guidance)
        answers = torch.cat([t[prompt:] for t, prompt, _ in part]).to(device)
        loss = losses(self.adapter, logits, answers[masked], self.mask_id)
        counts = [int(mask.sum()) for _, _, mask in part]
        return [-float(values.sum()) for values in loss.split(counts)]

    def _noised(self, text: torch.Tensor, prompt: int, mask: torch.Tensor) -> Sequence:
        """A sequence with one block, the answer, of which `mask` is masked."""
        tokens = text.clone()
        tokens[prompt:][mask] = self.mask_id
        q = Sequence(
            tokens=tokens,
            prompt_length=prompt,
            block_length=len(text) - prompt,
            mask_id=self.mask_id,
            rule=fixed_quota(),
            suffix=Suffix("none"),
            sampling=self.sampling,
        )
        q.kept = tokens[:0]
        return q
