"""Finished blocks to a Transformers streamer."""

import torch


class BlockStreamer:
    """Feeds a streamer (`put`, `end`) the prompt, then each finished block, in order.

    A text ends at its first end id: the id itself is passed on, nothing behind it.
    """

    def __init__(self, streamer, prompt, end_ids):
        self.streamer, self.prompt = streamer, prompt
        self.end_ids = torch.tensor(end_ids, dtype=torch.int64)
        self.ended = False

    def begin(self):
        self.streamer.put(self.prompt.cpu())

    def block(self, row, tokens):
        """`tokens`: int64 ``[block]``, all committed."""
        tokens = tokens.cpu()
        if self.ended:
            return
        ends = torch.isin(tokens, self.end_ids).nonzero()[:, 0]
        if ends.numel():
            self.ended = True
            tokens = tokens[: int(ends[0]) + 1]
        self.streamer.put(tokens)

    def end(self):
        self.streamer.end()
