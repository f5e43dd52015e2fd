"""The published decoders restated in plain torch: the tests' oracle and the benchmarks' partner.

`ordinary` is the loop that LLaDA was published with, on the model's own forward (arXiv 2502.09992).
`reference` is DPad on Fast-dLLM (arXiv 2508.14148, 2505.22618): pruned index list, prefix or dual
cache, threshold, factor or quota, early stop. Both make dpad's decisions for equal kept sets: soft-
max in float64, ties to the lowest index, the mask token never chosen. Nothing of dpad's own
decoding or operators is used. Prompts of a batch have one length; rows that are done with a block
leave the batch until the next one, so that no row is computed in vain.
"""

import time
from dataclasses import dataclass, field

import torch

from tests.doubles.plain_llada import PlainLLaDA

RULES = ("threshold", "factor", "factor_published", "quota")
CACHES = ("none", "prefix", "dual")


@dataclass
class Decoded:
    """Result of a reference decoder.

    `tokens` and `committed_at` (number of the row's forward, -1: never) are int64 ``[batch,
    length]``, `forwards` int64 ``[batch]``; `positions` counts the rows computed in all passes;
    `passes` holds per pass (first of its block, sequences in it, seconds, its commit included).
    """

    tokens: torch.Tensor
    committed_at: torch.Tensor
    forwards: torch.Tensor
    positions: int = 0
    seconds: float = 0.0
    passes: list = field(default_factory=list)


def linear_schedule(count, steps):
    """LLaDA's transfer schedule: `count` over `steps`, the first ones get one more."""
    return [count // steps + (i < count % steps) for i in range(steps)]


def choose(logits, open_, rule, quota, mask_id):
    """The predicted tokens of a block, and which of them are committed.

    Args:
        logits: ``[batch, block, vocab]``, overwritten at the mask id.
        open_: bool ``[batch, block]``, what still holds a mask.
        rule: (name, amount), a name of `RULES`.
        quota: number to commit by the quota rule.

    Returns:
        tokens int64 and commits bool, both ``[batch, block]``.
    """
    name, amount = rule
    probability = logits.double().softmax(-1)
    logits[..., mask_id] = -torch.inf
    token = logits.argmax(-1)
    score = probability.gather(-1, token[..., None])[..., 0].masked_fill(~open_, -torch.inf)
    ranked, order = score.sort(dim=-1, descending=True, stable=True)
    masks = open_.sum(-1)
    if name == "threshold":
        count = (ranked >= amount).sum(-1)
    elif name == "quota":
        count = masks.clamp(max=quota)
    else:
        j = torch.arange(2, ranked.shape[-1] + 2, device=ranked.device)
        good = j * (1 - ranked) <= amount
        good[..., 0] = True
        count = good.cumprod(-1).sum(-1)
        if name == "factor_published":  # a failure of the last candidate alone is overlooked
            count = torch.where(count == masks - 1, masks, count)
    rank = torch.arange(ranked.shape[-1], device=ranked.device)
    taken = torch.zeros_like(open_).scatter(-1, order, rank < count.clamp(min=1)[:, None])
    return token, taken & open_


class _OwnForward:
    """Passes over the whole canvas by the model's own forward."""

    def __init__(self, model, attention_mask):
        self.model, self.mask = model, attention_mask

    def begin(self, tokens, active, block, kept):
        self.block, self.active = block, active

    def keep(self, still):
        self.active = self.active[still]

    def run(self, tokens, first):
        given = {} if self.mask is None else {"attention_mask": self.mask[self.active]}
        logits = self.model(tokens[self.active], **given).logits
        return logits[:, slice(*self.block)], self.active.numel() * tokens.shape[1]


class _Pruned:
    """Passes over prompt, block and kept suffix, with the cache of a mode."""

    def __init__(self, plain, cache, head):
        self.plain, self.cache, self.head = plain, cache, head

    def begin(self, tokens, active, block, kept):
        self.block, self.active = block, active
        before = torch.arange(block[1], device=tokens.device)
        if kept.dim() == 2:
            before, kept = before.expand(active.numel(), -1), kept[active]
        self.position, self.past = torch.cat((before, kept), dim=-1), None

    def keep(self, still):
        self.active = self.active[still]
        if self.position.dim() == 2:
            self.position = self.position[still]
        if self.past is not None:
            self.past = [(k[still], v[still]) for k, v in self.past]

    def run(self, tokens, first):
        start, end = self.block
        begin, stop, at = 0, self.position.shape[-1], None
        if not first and self.cache != "none":
            begin = start
            if self.cache == "dual":
                stop, at = end, start
        position = self.position[..., begin:stop]
        rows = tokens[self.active]
        ids = rows.gather(1, position) if position.dim() == 2 else rows[:, position]
        past = None if begin == 0 else self.past
        hidden, present = self.plain(ids, position, past, at)
        if first and self.cache == "prefix":
            self.past = [(k[:, :, :start], v[:, :, :start]) for k, v in present]
        elif first and self.cache == "dual":
            self.past = present
        mine = slice(start - begin, end - begin)
        if self.head == "block":
            return self.plain.head(hidden[:, mine]), ids.numel()
        return self.plain.head(hidden)[:, mine], ids.numel()


def _decode(passes, ids, new_tokens, mask_id, rule, block_length, kept, stop, choose=choose):
    """The loop that both decoders share; `stop`: end ids or none, and what fills a stopped row."""
    batch, prompt = ids.shape
    length, device = prompt + new_tokens, ids.device
    tokens = torch.cat((ids, ids.new_full((batch, new_tokens), mask_id)), dim=1)
    out = Decoded(tokens, torch.full_like(tokens, -1), ids.new_zeros(batch))
    starts = range(prompt, length, block_length)
    steps = linear_schedule(rule[1], len(starts)) if rule[0] == "quota" and rule[1] else None
    live, ends = torch.arange(batch, device=device), torch.tensor(stop[0], device=device)
    for number, start in enumerate(starts):
        end = min(start + block_length, length)
        suffix = torch.arange(end, length, device=device) if kept is None else kept(number)
        schedule = [1] if steps is None else linear_schedule(end - start, steps[number])
        active, step = live, 0
        passes.begin(tokens, active, (start, end), suffix)
        while active.numel():
            begun = time.perf_counter()
            logits, computed = passes.run(tokens, step == 0)
            block = tokens[active, start:end]
            quota = schedule[step] if step < len(schedule) else 1
            token, taken = choose(logits, block == mask_id, rule, quota, mask_id)
            block = torch.where(taken, token, block)
            tokens[active, start:end] = block
            at = out.committed_at[active, start:end]
            out.committed_at[active, start:end] = torch.where(taken, out.forwards[active, None], at)
            out.forwards[active] += 1
            still = (block == mask_id).any(-1)
            out.positions += computed
            out.passes.append((step == 0, active.numel(), time.perf_counter() - begun))
            if not still.all():
                active = active[still]
                passes.keep(still)
            step += 1
        if stop[0]:
            ended = torch.isin(tokens[live, start:end], ends).any(-1)
            tokens[live[ended], end:] = stop[1]
            live = live[~ended]
            if not live.numel():
                break
    return out


def _check(ids, new_tokens, block_length, rule):
    if ids.dim() != 2:
        raise ValueError(f"ids has shape {list(ids.shape)}: expected [batch, length]")
    if new_tokens < 1 or block_length < 1:
        raise ValueError(f"new_tokens = {new_tokens}, block_length = {block_length}: expected >= 1")
    if rule[0] not in RULES:
        raise ValueError(f"rule = {rule!r}: expected a name of {', '.join(RULES)} and its amount")


@torch.inference_mode()
def ordinary(model, ids, new_tokens, *, mask_id, block_length=32, steps=None, attention_mask=None):
    """Decodes as LLaDA was published: the whole canvas in every step, by the model's own forward.

    Args:
        model: called as ``model(input_ids, attention_mask=...)``, gives ``.logits``.
        ids: int64 ``[batch, length]``; attention_mask: the same shape, or None.
        steps: steps over the whole canvas; None: one token per step.

    Returns:
        `Decoded`.
    """
    rule = ("quota", steps)
    _check(ids, new_tokens, block_length, rule)
    if attention_mask is not None:
        ones = attention_mask.new_ones(len(ids), new_tokens)
        attention_mask = torch.cat((attention_mask, ones), dim=1)
    begun = time.perf_counter()
    passes = _OwnForward(model, attention_mask)
    out = _decode(passes, ids, new_tokens, mask_id, rule, block_length, None, ((), None))
    out.seconds = time.perf_counter() - begun
    return out


@torch.inference_mode()
def reference(
    model,
    ids,
    new_tokens,
    *,
    mask_id,
    rule,
    block_length=32,
    kept=None,
    cache="none",
    end_ids=(),
    fill_id=None,
    head="all",
    forward=PlainLLaDA,
    choose=choose,
):
    """Decodes by DPad's and Fast-dLLM's algorithm in plain torch.

    Args:
        model: a live LLaDA, in the released remote code or `dpad.models.hf`.
        ids: int64 ``[batch, length]``, without padding.
        rule: ("threshold", value), ("factor", value), ("factor_published", value) or
            ("quota", steps or None).
        kept: a function of the block's number to the kept suffix positions, int64 ``[kept]`` for
            all rows or ``[batch, kept]``; None keeps everything.
        cache: "none", "prefix" or "dual".
        end_ids: early stop at these ids in a finished block; empty: none.
        fill_id: what a stopped row is filled with; default the first end id.
        head: "all" gives the head every row that was computed, as published; "block" the block's.
        forward: of the model, a kind of `PlainLLaDA`; choose: in the place of `choose`.

    Returns:
        `Decoded`.
    """
    _check(ids, new_tokens, block_length, rule)
    if cache not in CACHES:
        raise ValueError(f"cache = {cache!r}: expected one of {', '.join(CACHES)}")
    if head not in ("all", "block"):
        raise ValueError(f"head = {head!r}: expected all or block")
    end_ids = tuple(end_ids)
    fill_id = end_ids[0] if fill_id is None and end_ids else fill_id
    begun = time.perf_counter()
    passes, stop = _Pruned(forward(model), cache, head), (end_ids, fill_id)
    out = _decode(passes, ids, new_tokens, mask_id, rule, block_length, kept, stop, choose)
    out.seconds = time.perf_counter() - begun
    return out
