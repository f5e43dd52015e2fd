"""A decoder that follows another one, to see whether they decide alike where rounding decides ties.

With random weights in bfloat16 the best tokens of a row are closer than the rounding of two equally
good forwards, and after one other token everything is different. So the reference takes the path
that `generate` took: at each step its own logits, from its own cache, have to support what was
committed, within the rounding allowed. A wrong row, position or cache gives logits that have
nothing to do with those that decided, and a gap of the size of the logits.
"""

import torch

ALLOWED = 0.1  # of the largest logit, as between the logits of two forwards in bfloat16


class Follower:
    """A `choose` of `reference` for a trace of one row, behind a prompt of so many tokens.

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
        places = [(p - self.length) % len(logits) for p in event["positions"]]
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
