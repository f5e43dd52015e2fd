"""What the models learn from: LLaDA's fine-tuning loss, and its form for block-causal models."""

import torch
import torch.nn.functional as F
from architectures import SHIFT

from dpad.demo import task

PROMPT = 25  # tokens of every prompt


def block_causal(model):
    """Whether a position of the model sees its own block and those before it, no others."""
    return model.config.model_type == "sdar"


def aligned_logits(model, ids):
    """Logits [B, T, V] whose row i predicts position i, whatever the family's shift."""
    logits = model(ids).logits
    if SHIFT[model.config.model_type]:
        logits = torch.cat((logits[:, :1], logits[:, :-1]), dim=1)
    return logits


def draw_rates(count, generator, skew):
    """Mask rates float32 [count, 1], spread evenly over (0, 1) around a common random offset."""
    t = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1
    if skew != 1:
        t = 1 - (1 - t) ** skew
    return ((1 - 1e-3) * t + 1e-3)[:, None]


def sft_loss(model, rows, generator, skew=1):
    """LLaDA's loss: masked cross entropy / mask rate, over the number of response tokens."""
    batch, length = rows.shape
    rate = draw_rates(batch, generator, skew)
    masked = torch.rand(batch, length, generator=generator) < rate
    masked[:, :PROMPT] = False
    logits = aligned_logits(model, torch.where(masked, task.MASK_ID, rows))
    loss = F.cross_entropy(logits[masked].float(), rows[masked], reduction="none")
    return (loss / rate.expand_as(rows)[masked]).sum() / (batch * (length - PROMPT))


def block_loss(model, rows, generator, skew=1):
    """The same for a block-causal model: a block with masks, given the clean blocks before it.

    All blocks of a row are learned in one forward (arXiv 2503.09573, section 3.2): its clean tokens
    stand first, behind them its blocks from the answer's first on, each masked at its own rate.
    """
    batch, length = rows.shape
    block = model.config.block_size
    first = PROMPT // block * block
    place = torch.arange(first, length)
    rates = draw_rates(batch * -(-(length - first) // block), generator, skew)
    rates = rates[torch.randperm(len(rates), generator=generator)]  # no block has the low ones
    rate = rates.view(batch, -1)[:, place // block - first // block]
    masked = torch.rand(batch, length - first, generator=generator) < rate
    masked[:, : PROMPT - first] = False
    answer = rows[:, first:]
    noisy = torch.where(masked, task.MASK_ID, answer)
    position = torch.cat((torch.arange(length), place))
    copy = torch.arange(len(position)) >= length
    logits = model(
        torch.cat((rows, noisy), dim=1),
        position_ids=position[None],
        attention_mask=visible(position // block, copy)[None, None],
    ).logits[:, length:]
    loss = F.cross_entropy(logits[masked].float(), answer[masked], reduction="none")
    return (loss / rate[masked]).sum() / (batch * (length - PROMPT))


def visible(block, copy):
    """bool [L, L], true where a row may look: at its own block in its own copy, and at clean blocks
    before it; `block` int64 [L], `copy` bool [L], true in the copy with masks.
    """
    own = (block[:, None] == block) & (copy[:, None] == copy)
    return own | ((block[:, None] > block) & ~copy)
