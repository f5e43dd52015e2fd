"""Diffusion in Diffusion restated for one row: a threshold decoder's draft, refined, in loops.

The model's own forward sees the whole canvas in every step (arXiv 2601.13599, one stage after the
draft for each round).
"""

import torch


class Refined:
    """Decodes `tokens` of one row; `masked` and `same` count what was masked again."""

    def __init__(self, model, prompt, new, mask_id, threshold, ends=(), shift=0, fill=None):
        self.model, self.mask_id, self.threshold = model, mask_id, threshold
        self.ends, self.shift, self.fill = set(ends), shift, fill
        self.start, self.length = len(prompt), len(prompt) + new
        self.tokens = list(prompt) + [mask_id] * new
        self.certain = [None] * self.length
        self.forwards = self.masked = self.same = 0

    @torch.no_grad()
    def probabilities(self):
        """float64 ``[length, vocab]``: row i predicts position i."""
        logits = self.model(torch.tensor([self.tokens])).logits[0].double()
        self.forwards += 1
        if self.shift:
            logits = torch.cat((logits[:1], logits[:-1]))
        return logits.softmax(-1)

    def block(self, start, end):
        """Fills the masks of a block; whether it holds an end then, which fills what is behind."""
        while self.mask_id in self.tokens[start:end]:
            p = self.probabilities()
            left = [i for i in range(start, end) if self.tokens[i] == self.mask_id]
            best = {}
            for i in left:
                row = p[i].clone()
                row[self.mask_id] = -1
                best[i] = int(row.argmax()), float(row.max())
            sure = [i for i in left if best[i][1] >= self.threshold]
            for i in sure or [max(left, key=lambda i: (best[i][1], -i))]:
                self.tokens[i], self.certain[i] = best[i]
        if not self.ends & set(self.tokens[start:end]):
            return False
        for i in range(end, self.length):
            if self.tokens[i] == self.mask_id:
                self.tokens[i] = self.fill
        return True

    def draft(self, width):
        for start in range(self.start, self.length, width):
            if self.block(start, min(start + width, self.length)):
                return

    def refine(self, ratio, width, select_by, least):
        answer = self.tokens[self.start :]
        count = next((i for i, t in enumerate(answer) if t in self.ends), len(answer))
        if int(ratio * count + 1e-9) == 0:
            return
        certain = {i: self.certain[self.start + i] for i in range(count)}
        if select_by == "posthoc":
            p = self.probabilities()
            certain = {i: float(p[self.start + i, answer[i]]) for i in range(count)}
        may = [i for i in range(count) if certain[i] < least]
        worst = sorted(may, key=lambda i: (certain[i], i))[: int(ratio * count + 1e-9)]
        chosen = sorted(self.start + i for i in worst)
        if not chosen:
            return
        before = {i: self.tokens[i] for i in chosen}
        for i in chosen:
            self.tokens[i] = self.mask_id
        for start, end in self.windows(chosen, width):
            if self.block(start, end):
                break
        self.masked += len(chosen)
        self.same += sum(self.tokens[i] == token for i, token in before.items())

    def windows(self, chosen, width):
        if width is None:
            return [(chosen[0], chosen[-1] + 1)]
        starts = sorted({(i - self.start) // width * width + self.start for i in chosen})
        return [(s, min(s + width, self.length)) for s in starts]
