"""Whether two decoders decide alike where rounding decides ties: one follows the other.

With random weights in bfloat16 the best tokens of a row are closer than the rounding of two equally
good forwards, and after one other token everything is different. So tokens are compared one by one
only in float32 at a small shape (`equal_tokens`). At the full shape the plain decoder takes the
path that dpad took (`Follower`): at each step its logits, from its own cache, have to support what
dpad committed, within the rounding allowed. A wrong row, position or cache gives logits that have
nothing to do with those that decided, and a gap of the size of the logits.
"""

import torch

import dpad
from benchmarks.gpu import models, plain
from benchmarks.gpu.models import BLOCK
from tests.doubles.plain_llada import PlainLLaDA
from tests.doubles.reference_decoder import choose

ALLOWED = 0.1  # of the largest logit, as between the logits of two forwards in bfloat16


def options(new_tokens, per_step, **more):
    """Of `generate`: `per_step` tokens of every block in a step, the suffix whole, a dual cache;
    and what differs from that.
    """
    return {
        "max_new_tokens": new_tokens,
        "block_length": BLOCK,
        "steps": new_tokens // per_step,
        "suffix": dpad.Suffix("all"),
        "cache": "dual",
        "early_stop": False,
        "seed": 0,
        "return_dict_in_generate": True,
        **more,
    }


def equal_tokens(device):
    """Tokens of `generate`, of the plain decoder and of the tests' reference, which has to be one
    text, in float32 at a small shape: a record.
    """
    batch, length, new, differ = 2, 40, 2 * BLOCK, {}
    model = models.build(models.TINY["tiny"], device, torch.float32, length + new)
    ids = models.prompt(batch, length, device)
    kinds = {"plain torch": (), "reference": (PlainLLaDA, choose)}
    with dpad.patch(model):
        for per_step in (1, 2, 4, 8):
            out = model.generate(ids, **options(new, per_step)).sequences
            for name, kind in kinds.items():
                tokens = plain.decode(model, ids, new, per_step, *kind)
                differ[f"{name}, {per_step} tokens per step"] = int((tokens != out).sum())
    found = {"tokens": 4 * batch * new, "different": differ}
    wrong = [name for name, count in differ.items() if count]
    return found if not wrong else {**found, "problem": f"tokens differ: {', '.join(wrong)}"}


class Follower:
    """A `choose` of the plain decoder: what a `dpad` trace of one row tells, compared.

    `decisions` counts commits, `same` those that the plain logits alone would have made, `worst` is
    the largest gap as a share of the largest logit.
    """

    def __init__(self, trace, length):
        self.events, self.length = iter(trace.events), length
        self.decisions = self.same = 0
        self.worst = 0.0

    def __call__(self, logits, open_, rule, quota, mask_id):
        event = next(self.events)
        size = logits.abs().max().item()
        logits = logits[0].float()
        logits[:, mask_id] = -torch.inf
        places = [(p - self.length) % BLOCK for p in event["positions"]]
        at, given = (torch.tensor(n, device=logits.device) for n in (places, event["tokens"]))
        best, token = logits.max(-1)
        score = (best - logits.logsumexp(-1)).masked_fill(~open_[0], -torch.inf)
        last, chosen = score.topk(quota)
        gaps = torch.cat((best[at] - logits[at, given], last[-1] - score[at]))
        self.worst = max(self.worst, gaps.max().item() / size)
        self.decisions += len(places)
        self.same += int(((token[at] == given) & torch.isin(at, chosen)).sum())
        token[at] = given
        return token[None], torch.zeros_like(open_).index_fill(1, at, True)

    def record(self):
        found = {"decisions": self.decisions, "same": self.same, "worst_gap": self.worst}
        if self.worst <= ALLOWED:
            return found
        return {**found, "problem": f"gap {self.worst:.2g} of the largest logit in a decision"}


def followed(model, device, keys, per_step):
    """A record of the plain decoder on the path of `generate`, one sequence of `keys`."""
    new = 2 * BLOCK
    ids = models.prompt(1, keys - new, device)
    out = model.generate(ids, trace=True, **options(new, per_step))
    follower = Follower(out.trace, keys - new)
    canvas = plain.decode(model, ids, new, per_step, choose=follower)
    found = follower.record()
    if not torch.equal(canvas, out.sequences):
        found["problem"] = "the trace does not lead to the tokens that were returned"
    return found
