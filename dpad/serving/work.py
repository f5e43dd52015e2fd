"""The answers of one request to the server: submitted together, ended together."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from dpad.engine import Block, Draft, End, Engine, Request
from dpad.generation.recipe import Recipe
from dpad.serving.errors import Refused, refusal
from dpad.serving.schema import ChatRequest, CompletionRequest
from dpad.serving.text import StopCriterion, TextStream


class LogitBias:
    """A logits processor that adds to the logits of some tokens: id -> number."""

    def __init__(self, biases: Mapping[int, float]) -> None:
        self._ids = torch.tensor(list(biases), dtype=torch.int64)
        self._values = torch.tensor(list(biases.values()), dtype=torch.float32)

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._ids, self._values = self._ids.to(scores.device), self._values.to(scores.device)
        return scores.index_add(1, self._ids, self._values.expand(scores.shape[0], -1))


class Answer:
    """One choice: `index`, its engine `request`, and its text so far.

    `behind`: given tokens at the end of the canvas that are no part of it.
    """

    def __init__(self, index: int, request: Request, text: TextStream, behind: int = 0) -> None:
        self.index, self.request, self.text, self.behind = index, request, text, behind
        self.end: End | None = None
        self._taken = 0

    def ids(self, tokens: torch.Tensor) -> list[int]:
        """`tokens` as a list, up to the first end id, which is left out."""
        ends, found = self.request.sequence.end_ids, tokens.tolist()
        return found[: next((i for i, token in enumerate(found) if token in ends), None)]

    def taken(self, tokens: torch.Tensor) -> list[int]:
        """The `ids` of a finished block, without what is given behind the last gap."""
        most = max(self.canvas - self.behind - self._taken, 0)
        self._taken += len(tokens)
        return self.ids(tokens[:most])

    @property
    def ended(self) -> End:
        """Its `end`, once that has come."""
        assert self.end is not None
        return self.end

    @property
    def canvas(self) -> int:
        """Length of the generated part."""
        return self.request.sequence.length - self.request.sequence.prompt_length

    @property
    def finish_reason(self) -> str:
        """ "stop" or "length", as OpenAI has it."""
        end = self.ended
        whole = end.reason == "length" and end.usage.completion_tokens == self.canvas
        return "length" if whole and not self.text.stopped else "stop"


class Work:
    """Answers to one body: each prompt n times.

    Answer j of a prompt has row key j, so that it is the same whatever else is asked, and n answers
    are those of ``dpad.generate(num_return_sequences=n)``.

    Args:
        engine: a `dpad.Engine`.
        tokenizer: for the text.
        prompts: token ids each.
        body: a `schema.Request`.
        recipe: the `Recipe` of its options.
        seconds: until the deadline.
        behind: the last tokens of each prompt, which stand behind its gap and are not answered.

    Raises:
        ValueError, TypeError: a prompt that the engine refuses.
        QueueFull, EngineClosed: nothing is left of the request then.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        prompts: list[list[int]],
        body: CompletionRequest | ChatRequest,
        recipe: Recipe,
        seconds: float,
        behind: int = 0,
    ) -> None:
        self.seed = random.getrandbits(63) if body.seed is None else body.seed
        self.created, self.answers, self._n = int(time.time()), [], body.n
        drafts = body.stream and body.stream_options is not None and body.stream_options.drafts
        stops, biases = body.stop_strings(), body.logit_bias
        processors = [LogitBias({int(i): v for i, v in biases.items()})] if biases else None
        try:
            for index in range(len(prompts) * body.n):
                criteria = [StopCriterion(tokenizer, stops)] if stops else None
                request = engine.submit(
                    prompts[index // body.n],
                    generation_config=recipe,
                    seed=self.seed,
                    row_key=index % body.n,
                    timeout=seconds,
                    stream="drafts" if drafts else "blocks",
                    logits_processor=processors,
                    stopping_criteria=criteria,
                )
                self.answers.append(Answer(index, request, TextStream(tokenizer, stops), behind))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Ends what has not ended; harmless afterwards."""
        for answer in self.answers:
            if answer.end is None:
                answer.request.cancel()

    async def pieces(self) -> AsyncIterator[tuple[Answer, str, Draft | None]]:
        """(answer, text, draft) as they come: new text, or a `Draft`; `answer.end` at its last.

        Raises `Refused` where an answer failed; the others are cancelled then.
        """
        queue: asyncio.Queue[tuple[Answer, Block | Draft | End]] = asyncio.Queue()

        async def pump(answer: Answer) -> None:
            async for event in answer.request:
                queue.put_nowait((answer, event))

        pumps = [asyncio.create_task(pump(answer)) for answer in self.answers]
        try:
            while any(answer.end is None for answer in self.answers):
                answer, event = await queue.get()
                if isinstance(event, Draft):
                    yield answer, "", event
                elif isinstance(event, Block):
                    yield answer, answer.text.push(answer.taken(event.tokens)), None
                elif isinstance(event, End):
                    await self._ended(answer, event)
                    yield answer, answer.text.end(), None
        finally:
            self.cancel()
            for task in pumps:
                task.cancel()

    @staticmethod
    async def _ended(answer: Answer, event: End) -> None:
        answer.end = event
        try:
            await answer.request
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise refusal(error) from error

    async def texts(self) -> list[str]:
        """The whole text of each answer."""
        texts = [""] * len(self.answers)
        async for answer, text, _ in self.pieces():
            texts[answer.index] += text
        return texts

    def usage(self) -> dict[str, int]:
        """OpenAI's counts, after the end: given tokens of each prompt, tokens up to the end ids."""
        prompt = sum(a.ended.usage.prompt_tokens for a in self.answers[:: self._n])
        completion = sum(a.ended.usage.completion_tokens for a in self.answers)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def details(self) -> dict[str, Any]:
        """What dpad adds to an answer, after the end."""
        return {
            "seed": self.seed,
            "canvas": self.answers[0].canvas,
            "forwards": [a.ended.usage.forwards for a in self.answers],
            "seconds": max(a.ended.timings.total for a in self.answers),
        }


def checked_biases(biases: Mapping[str, float] | None, vocabulary: int) -> None:
    """Refuses a `logit_bias` of ids that the model does not have."""
    for name in biases or {}:
        number = name.isascii() and name.isdigit() and len(name) < 10
        # As it is written in one way only: another one would be the same id once more.
        if not (number and str(int(name)) == name and int(name) < vocabulary):
            told = f"logit_bias: {name[:20]!r} is no token id of the model"
            raise Refused(400, told, "logit_bias")
