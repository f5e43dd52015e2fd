"""A tiny LLaDA, and its training on a planning task."""

import torch
import torch.nn.functional as F
from tqdm import trange

from dpad.models.hf import LLaDAConfig, LLaDAModelLM

RATE, WARMUP, HOLD = 2e-3, 50, 1 / 3  # learning rate, its first steps, share before it falls


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


def train(task, steps, step_tokens, width, layers, seed):
    """A model in eval mode after so many steps of about `step_tokens` tokens."""
    torch.manual_seed(seed)
    model, generator = build(task, width, layers), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.0)
    smooth, bar = None, trange(steps, desc=f"training: {task.name}", unit="step", mininterval=2)
    for step in bar:
        fall = (1 - step / steps) / (1 - HOLD)
        optimiser.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / WARMUP, fall)
        number = int(torch.randint(len(task.canvases), (1,), generator=generator))
        canvas = task.canvases[number]
        count = step_tokens // (task.prompt_length + canvas)
        rows = task.problems(canvas, count, generator, "train")
        loss = sft_loss(model, rows, task, generator)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
    return model.eval()
