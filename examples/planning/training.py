"""A tiny LLaDA, and its training on a planning task."""

import torch
import torch.nn.functional as F
from tqdm import trange

from dpad.models.hf import LLaDAConfig, LLaDAModelLM

RATE, WARMUP = 2e-3, 50  # learning rate, its first steps
HOLD, LONG_HOLD = 1 / 3, 2 / 3  # share of the training before it falls; with a curriculum
WIDTHS = 8, 41  # of the blocks of a curriculum


def build(task, width, layers):
    """A LLaDA with the vocabulary and the positions of a task, float32."""
    model = LLaDAModelLM(
        LLaDAConfig(
            d_model=width, n_heads=4, n_kv_heads=4, n_layers=layers, mlp_hidden_size=3 * width,
            vocab_size=task.vocabulary, embedding_size=task.vocabulary, rope_theta=10000.0,
            max_sequence_length=task.prompt_length + max(task.canvases),
            mask_token_id=task.mask_id, bos_token_id=task.start_id, eos_token_id=task.start_id,
            pad_token_id=task.start_id,
        )
    )  # fmt: skip
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            scale = (
                (2 * layers) ** -0.5 if name.endswith(("attn_out.weight", "ff_out.weight")) else 1
            )
            fan_in = 4 if "wte" in name else weight.shape[1]
            torch.nn.init.normal_(weight, std=scale * fan_in**-0.5)
    return model


def sft_loss(model, rows, task, generator):
    """LLaDA's loss (arXiv 2502.09992, eq. 5): masked cross entropy over the mask rate.

    Answers of `rows`, int64 ``[batch, length]``, are masked token by token, each row at its own
    rate; the rates are spread evenly over (0, 1). No suffix is dropped and no block is masked
    whole: the model is trained as published ones are.
    """
    batch, length = rows.shape
    rate = (torch.rand(1, generator=generator) + torch.arange(batch) / batch) % 1
    rate = (1e-3 + (1 - 1e-3) * rate)[:, None].expand(batch, length)
    masked = torch.rand(batch, length, generator=generator) < rate
    masked[:, : task.prompt_length] = False
    logits = model(torch.where(masked, task.mask_id, rows)).logits
    loss = F.cross_entropy(logits[masked], rows[masked], reduction="none")
    return (loss / rate[masked]).sum() / (batch * (length - task.prompt_length))


def block_loss(model, rows, task, generator):
    """Cross entropy of one block per row, masked as decoding finds it.

    What stands before the block is clean, its own tokens are masked at a rate of the row's own, and
    everything behind it is masked.
    """
    batch, length = rows.shape
    last = length - WIDTHS[0] + 1
    start = torch.randint(task.prompt_length, last, (batch, 1), generator=generator)
    end = start + torch.randint(WIDTHS[0], WIDTHS[1], (batch, 1), generator=generator)
    place = torch.arange(length)
    rate = 1 - torch.rand(batch, 1, generator=generator) ** 2  # most blocks are nearly empty
    drawn = torch.rand(batch, length, generator=generator) < rate
    counted = (start <= place) & (place < end) & drawn
    logits = model(torch.where(counted | (place >= end), task.mask_id, rows)).logits
    return F.cross_entropy(logits[counted], rows[counted])


def choose_optimisers(model, task):
    """AdamW; with a curriculum Muon for the matrices of the layers, as in examples/train_tiny."""
    adam = {"lr": RATE, "betas": (0.9, 0.98), "weight_decay": 0.0}
    if not hasattr(task, "curriculum"):
        return [torch.optim.AdamW(model.parameters(), **adam)]
    matrices = {n: w for n, w in model.named_parameters() if ".blocks." in n and w.dim() == 2}
    others = [w for n, w in model.named_parameters() if n not in matrices]
    muon = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.0}
    return [torch.optim.AdamW(others, **adam), torch.optim.Muon(matrices.values(), **muon)]


def train(task, steps, step_tokens, width, layers, seed):
    """A model in eval mode after so many steps of about `step_tokens` tokens."""
    torch.manual_seed(seed)
    model, generator = build(task, width, layers), torch.Generator().manual_seed(seed)
    hold, find_loss = HOLD, sft_loss
    if hasattr(task, "curriculum"):
        hold, find_loss = LONG_HOLD, block_loss
    optimisers = choose_optimisers(model, task)
    rates = [optimiser.param_groups[0]["lr"] for optimiser in optimisers]
    smooth, bar = None, trange(steps, desc=f"training: {task.name}", unit="step", mininterval=2)
    for step in bar:
        fall = (1 - step / steps) / (1 - hold)
        factor = min(1.0, (step + 1) / WARMUP, fall)
        parts = getattr(task, "curriculum", (task.canvases,))
        canvases = parts[step * len(parts) // steps]
        canvas = canvases[int(torch.randint(len(canvases), (1,), generator=generator))]
        count = step_tokens // (task.prompt_length + canvas)
        rows = task.problems(canvas, count, generator, "train")
        loss = find_loss(model, rows, task, generator)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, rate in zip(optimisers, rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * factor
            optimiser.step()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
    return model.eval()
