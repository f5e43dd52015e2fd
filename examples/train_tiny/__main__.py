"""Train the tiny models that dpad ships: 0.8 M parameters, the counting task of `dpad.demo`.

    python examples/train_tiny --model llada --output out/tiny_llada
    python examples/train_tiny --model dream --output out/tiny_dream --tokens 8e6
    python examples/train_tiny --model sdar --output out/tiny_sdar --tokens 6e6

One CPU core, about an hour and twice half an hour. Dream and SDAR start from the shipped LLaDA's
weights, as their namesakes started from a trained model (`--from-scratch` does not): they learn
grouped keys and, the Dream, the shift (row i - 1 predicts position i) and biases, the SDAR its
norms of q and k and to do without what comes behind a block. The loss is LLaDA's supervised
fine-tuning loss (arXiv 2502.09992, section 2.3 and appendix B): response tokens are masked at a
random rate, end tokens fill the canvas and count. Masks are only ever sampled independently: the
model sees no dropped suffix and no block-shaped masks in training, so what decoding loses without a
suffix is what such a model loses. A block-causal model has a rate for each block and sees clean
blocks before it.

Interrupt it at will: the same command resumes from the last checkpoint and ends with the same
weights. At the end it writes the model folder, scores it on held-out problems with a plain decoder
and fills in the model card.
"""

import argparse
import hashlib
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from architectures import ARCHITECTURES, build, norms_as_found, start_from_llada
from losses import PROMPT, aligned_logits, block_causal, block_loss, sft_loss
from tabulate import tabulate
from tokenizer import write_tokenizer
from tqdm import tqdm
from transformers import GenerationConfig

from dpad import demo
from dpad.demo import task
from dpad.models.hf import AutoModel

WARMUP, LAST, EMA = 50, 0.02, 0.995  # steps, factor of the final learning rate, averaging


@dataclass(frozen=True)
class Phase:
    """What a stretch of the training sees, and its learning rate."""

    canvases: dict  # response length -> share of the steps
    crossing: float  # share of the runs that pass a hundred, or nearly do
    beyond: int  # nearly: up to so many records later
    rate: float  # factor of the learning rate after the warm-up
    hold: float  # share of the steps before the rate falls
    skew: int  # mask rates t are drawn as 1 - u**skew: above 1, nearly empty canvases prevail


# Committing many tokens at once goes wrong mostly where a hundred is passed, or almost: the second
# phase dwells on that.
PHASES = (
    Phase(
        {64: 0.5, 128: 0.2, 256: 0.15, 512: 0.15},
        crossing=0.5,
        beyond=0,
        rate=1.0,
        hold=0.4,
        skew=1,
    ),
    Phase(
        {64: 0.7, 128: 0.1, 256: 0.1, 512: 0.1},
        crossing=0.85,
        beyond=3,
        rate=0.3,
        hold=0.0,
        skew=2,
    ),
)


def arguments():
    parser = argparse.ArgumentParser(description="Train a tiny model on the counting task.")
    parser.add_argument("--model", choices=tuple(ARCHITECTURES), default="llada")
    parser.add_argument("--output", type=Path, help="default: out/tiny_<model>")
    parser.add_argument("--from-scratch", action="store_true", help="not from LLaDA's weights")
    parser.add_argument(
        "--tokens", type=float, default=22e6, help="most tokens of phase 1, all included"
    )
    parser.add_argument("--last-tokens", type=float, default=3.7e6, help="the same for phase 2")
    parser.add_argument("--step-tokens", type=int, default=2304, help="most tokens in one step")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check-every", type=float, default=2e6, help="tokens between checkpoints")
    parser.add_argument("--score", type=int, default=1000, help="held-out problems for the card")
    options = parser.parse_args()
    options.output = options.output or Path("out") / f"tiny_{options.model}"
    return options


def draw_batch(rng, step_tokens, phase, longest=512):
    """Rows of one canvas length: prompts and answers padded with end tokens, int64 [B, T]."""
    canvas = min(longest, rng.choices(list(phase.canvases), phase.canvases.values())[0])
    rows = []
    for _ in range(max(1, step_tokens // (PROMPT + canvas))):
        problem = task.sample(rng, "train", phase.crossing, phase.beyond)
        answer = task.encode(problem.answer)
        rows.append(problem.prompt_ids + answer + [task.END_ID] * (canvas - len(answer)))
    return torch.tensor(rows)


@torch.no_grad()
def decode(model, prompts, canvas, block=32, threshold=0.9, suffix=None):
    """Plain semi-autoregressive decoding, everything recomputed: answers int64 [B, canvas].

    In every forward of a block all tokens above the threshold are committed, and the best one. A
    row whose finished block holds an end token is done. `suffix`: how many positions behind the
    block are visible; None means all of them. A block-causal model sees none of them, and has its
    own blocks, counted from the start of the prompt.
    """
    batch = prompts.shape[0]
    ids = torch.cat((prompts, torch.full((batch, canvas), task.MASK_ID)), dim=1)
    live = torch.arange(batch)
    first = PROMPT
    if block_causal(model):
        block, suffix = model.config.block_size, 0
        first = PROMPT // block * block
    for begin in range(first, PROMPT + canvas, block):
        start, end = max(begin, PROMPT), min(begin + block, PROMPT + canvas)
        seen = ids.shape[1] if suffix is None else min(end + suffix, ids.shape[1])
        while True:
            todo = live[(ids[live, start:end] == task.MASK_ID).any(1)]
            if not len(todo):
                break
            logits = aligned_logits(model, ids[todo, :seen])[:, start:end].float()
            logits[..., task.MASK_ID] = -torch.inf
            confidence, token = logits.softmax(-1).max(-1)
            confidence[ids[todo, start:end] != task.MASK_ID] = -1
            commit = confidence > threshold
            commit[torch.arange(len(todo)), confidence.argmax(1)] = True
            ids[todo, start:end] = torch.where(commit, token, ids[todo, start:end])
        done = (ids[live, start:end] == task.END_ID).any(1)
        ids[live[done], end:] = task.END_ID
        live = live[~done]
    return ids[:, PROMPT:]


def score(model, count, canvas, rows=50, **options):
    """Per cent of `count` held-out problems answered exactly."""
    right = 0
    found = task.problems(count)
    for start in range(0, count, rows):
        part = found[start : start + rows]
        answers = decode(model, torch.tensor([p.prompt_ids for p in part]), canvas, **options)
        right += sum(p.check(row) for p, row in zip(part, answers, strict=True))
    return 100 * right / count


class Trainer:
    """Weights, averaged weights, optimisers and random states; saved and restored as one."""

    def __init__(self, options):
        torch.manual_seed(options.seed)
        self.options = options
        lengths = (options.tokens, options.last_tokens)
        self.phase_steps = [int(tokens // options.step_tokens) for tokens in lengths]
        self.steps = sum(self.phase_steps)
        self.model = build(options.model)
        if options.model != "llada" and not options.from_scratch:
            start_from_llada(self.model, demo.load()[0])
            norms_as_found(self.model, draw_batch(random.Random(0), 2304, PHASES[0]))
        self.average = {name: w.detach().clone() for name, w in self.model.named_parameters()}
        layers = ARCHITECTURES[options.model].layers
        matrices, others = [], []
        for name, weight in self.model.named_parameters():
            (matrices if layers in name and weight.dim() == 2 else others).append(weight)
        self.optimisers = (
            torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.0),
            torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self.rates = [o.param_groups[0]["lr"] for o in self.optimisers]
        self.rng = random.Random(options.seed)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.threads = options.threads  # those that trained, whatever scores later

    def phase(self):
        """The current phase and the factor of the learning rate: up, constant, linearly down."""
        number = int(self.step >= self.phase_steps[0])
        phase, steps = PHASES[number], self.phase_steps[number]
        step = self.step - number * self.phase_steps[0]
        decay = max(0.0, (step / steps - phase.hold) / (1 - phase.hold))
        rate = phase.rate + (LAST - phase.rate) * decay
        return phase, rate * min(1, (step + 1) / WARMUP)

    def train_step(self):
        began = time.perf_counter()
        phase, rate = self.phase()
        architecture = ARCHITECTURES[self.options.model]
        rows = draw_batch(self.rng, self.options.step_tokens, phase, architecture.longest)
        loss_of = block_loss if block_causal(self.model) else sft_loss
        loss = loss_of(self.model, rows, self.generator, phase.skew)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser, full in zip(self.optimisers, self.rates, strict=True):
            optimiser.param_groups[0]["lr"] = full * rate
            optimiser.step()
            optimiser.zero_grad()
        keep = min(EMA, (self.step + 1) / (self.step + 10))
        for name, weight in self.model.named_parameters():
            self.average[name].lerp_(weight.detach(), 1 - keep)
        self.step += 1
        self.tokens += rows.numel()
        self.seconds += time.perf_counter() - began
        return loss.item()

    def averaged(self):
        """A copy of the model with the averaged weights."""
        model = type(self.model)(self.model.config)
        model.load_state_dict(self.average)
        return model.eval()

    def save(self, path):
        state = {
            "model": self.model.state_dict(), "average": self.average,
            "optimisers": [o.state_dict() for o in self.optimisers],
            "rng": self.rng.getstate(), "generator": self.generator.get_state(),
            "progress": (self.step, self.tokens, self.seconds), "phase_steps": self.phase_steps,
            "threads": self.threads,
        }  # fmt: skip
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def restore(self, path):
        state = torch.load(path, weights_only=True)
        if state["phase_steps"] != self.phase_steps:
            sys.exit(f"{path} is of a run of {state['phase_steps']} steps, not {self.phase_steps}")
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        version, words, gauss = state["rng"]
        self.rng.setstate((version, tuple(words), gauss))
        self.generator.set_state(state["generator"])
        self.step, self.tokens, self.seconds = state["progress"]
        self.threads = state["threads"]


def train(options):
    """Run or resume the training; returns the finished trainer."""
    trainer = Trainer(options)
    checkpoint = options.output / "checkpoint.pt"
    if checkpoint.exists():
        trainer.restore(checkpoint)
    every = max(1, int(options.check_every // options.step_tokens))
    bar = tqdm(total=trainer.steps, initial=trainer.step, unit="step", mininterval=5)
    smooth = None
    while trainer.step < trainer.steps:
        loss = trainer.train_step()
        smooth = loss if smooth is None else 0.99 * smooth + 0.01 * loss
        bar.update()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if trainer.step % every == 0 or trainer.step == trainer.steps:
            exact = score(trainer.averaged(), 32, 128)
            bar.write(
                f"{trainer.tokens / 1e6:.1f} M tokens: loss {smooth:.4f}, exact {exact:.0f} %"
            )
            trainer.save(checkpoint)
    bar.close()
    return trainer


def export(trainer, folder):
    """Write the model folder: float16 weights, configuration, tokenizer."""
    model = trainer.averaged()
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    write_tokenizer(folder)
    GenerationConfig(
        bos_token_id=task.START_ID, eos_token_id=task.END_ID, pad_token_id=task.END_ID
    ).save_pretrained(folder)


def score_table(folder, count):
    """Markdown table: exact answers of the written model by canvas, with and without suffix; a
    block-causal model sees none.
    """
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    columns = {"exact": 0} if block_causal(model) else {"full suffix": None, "no suffix": 0}
    rows = []
    for canvas in tqdm((64, 128, 256, 512), desc="scoring", unit="canvas"):
        found = [score(model, count, canvas, suffix=suffix) for suffix in columns.values()]
        rows.append([canvas, *(f"{exact:.1f} %" for exact in found)])
    return tabulate(rows, ["canvas", *columns], tablefmt="github", disable_numparse=True)


def write_card(trainer, folder, scores):
    """README.md of the folder, from card.md and what the run measured."""
    files = sorted(path for path in folder.iterdir() if path.name != "README.md")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in files]
    options, template = trainer.options, Path(__file__).with_name("card.md").read_text()
    architecture = ARCHITECTURES[options.model]
    scratch = " --from-scratch" if options.from_scratch else ""
    card = template.format(
        title=architecture.title,
        model=options.model,
        start=architecture.start if not options.from_scratch else "trained from scratch",
        command=f"python examples/train_tiny --model {options.model}{scratch} "
        f"--tokens {options.tokens:g} "
        f"--last-tokens {options.last_tokens:g} "
        f"--step-tokens {options.step_tokens} --seed {options.seed}",
        parameters=sum(weight.numel() for weight in trainer.model.parameters()),
        tokens=trainer.tokens,
        steps=trainer.step,
        last_steps=trainer.phase_steps[1],
        minutes=trainer.seconds / 60,
        threads=trainer.threads,
        torch=torch.__version__,
        blocks=architecture.blocks,
        decoding=architecture.decoding,
        count=options.score,
        scores=scores,
        sums="\n    ".join(sums),
    )
    (folder / "README.md").write_text(card)


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    folder = options.output / "model"
    folder.mkdir(parents=True, exist_ok=True)
    trainer = train(options)
    export(trainer, folder)
    scores = score_table(folder, options.score)
    write_card(trainer, folder, scores)
    tqdm.write(f"{folder}\n{scores}")


if __name__ == "__main__":
    main()
