"""The adaptive commit rules restated in plain Python: one row, the model's own forward, loops.

Each is a function (rule, step) -> positions to commit; `step` is a `Step`. Nothing of dpad's own
decoding is used, and every number is a float64.
"""

from dataclasses import dataclass, field

import torch


@dataclass
class Step:
    """A step of a block: `logits` float64 ``[block, vocab]``, `masked` bool per position,
    `number` of the step, `progress` of all steps, and what the rule keeps for the block.
    """

    logits: torch.Tensor
    masked: list
    mask_id: int
    number: int
    progress: float
    kept: dict = field(default_factory=dict)

    def __post_init__(self):
        self.p = self.logits.softmax(-1)
        allowed = self.logits.clone()
        allowed[:, self.mask_id] = -torch.inf
        self.allowed, self.token = allowed, allowed.argmax(-1)
        self.open = [i for i, masked in enumerate(self.masked) if masked]
        self.confidence = [float(self.p[i, self.token[i]]) for i in range(len(self.masked))]

    def best(self):
        return max(self.open, key=lambda i: (self.confidence[i], -i))


def streaming(rule, step):
    left = len(step.open) / len(step.masked)
    bound = rule.threshold * (1 - rule.alpha * (1 - left))
    return [i for i in step.open if step.confidence[i] >= bound] or [step.best()]


def klass(rule, step):
    before = step.kept.get("p", torch.zeros_like(step.p))
    divergence = (step.p * ((step.p + 1e-12).log() - (before + 1e-12).log())).sum(-1)
    step.kept["p"] = step.p
    history = step.kept.setdefault("history", [])
    history.append(divergence)
    recent = history[-rule.stable :]
    stable = [len(recent) == rule.stable and all(float(d[i]) < rule.divergence for d in recent)
              for i in range(len(step.masked))]  # fmt: skip
    ready = [i for i in step.open if stable[i] and step.confidence[i] > rule.threshold]
    return ready or [step.best()]


def credit(rule, step):
    """Scores are those of other logits, so that tokens may change too."""
    credits = step.kept.setdefault("credits", torch.zeros_like(step.p))
    credits *= rule.beta
    for i in step.open:
        best = int(step.logits[i].argmax())
        credits[i, best] += float(step.p[i, best]) ** rule.gamma
    fused = step.logits + rule.alpha * torch.log(1 + credits)
    again = Step(fused, step.masked, step.mask_id, step.number, step.progress)
    step.token = again.token
    return [i for i in again.open if again.confidence[i] >= rule.threshold] or [again.best()]


def prophet(rule, step, quota=1):
    gaps = []
    for i in step.open:
        best, second = step.allowed[i].sort(descending=True).values[:2]
        gaps.append(float(best - second))
    third = 0 if step.progress < 0.33 else 1 if step.progress < 0.67 else 2
    if sum(gaps) / len(gaps) >= (rule.early, rule.middle, rule.late)[third]:
        return step.open
    return sorted(step.open, key=lambda i: (-step.confidence[i], i))[:quota]


def leap(rule, step):
    anchors = [i for i in step.open if step.confidence[i] >= rule.threshold]
    near = [i for i in step.open if step.confidence[i] >= rule.relaxed
            and any(abs(i - a) <= rule.radius for a in anchors)]  # fmt: skip
    return sorted({*anchors, *near}) or [step.best()]


def prefix(rule, step):
    run = []
    for i in step.open:
        if step.confidence[i] < rule.threshold:
            break
        run.append(i)
    return run or step.open[:1]


RULES = {f.__name__: f for f in (streaming, klass, credit, prophet, leap, prefix)}


@torch.no_grad()
def decode(model, prompt, rule, *, new, block, mask_id, shift=0, quotas=None):
    """int64 canvas of one row, and its forwards; the whole canvas is computed in every step.

    `quotas`: per block what Prophet commits in each step, or None: one.
    """
    canvas = torch.tensor([list(prompt) + [mask_id] * new])
    starts = range(len(prompt), len(prompt) + new, block)
    lengths = [min(block, len(prompt) + new - s) for s in starts]
    most = [len(q) for q in quotas] if quotas else lengths
    forwards = 0
    for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        kept, taken = {}, 0
        while mask_id in canvas[0, start : start + length].tolist():
            rows = slice(start - shift, start + length - shift)
            logits = model(canvas).logits[0, rows].double()
            masked = (canvas[0, start : start + length] == mask_id).tolist()
            progress = (sum(most[:number]) + min(taken, most[number])) / sum(most)
            step = Step(logits, masked, mask_id, taken, progress, kept)
            extra = {}
            if quotas:
                extra["quota"] = quotas[number][taken] if taken < most[number] else 1
            for i in RULES[rule.kind](rule, step, **extra):
                canvas[0, start + i] = step.token[i]
            forwards, taken = forwards + 1, taken + 1
    return canvas[0], forwards
