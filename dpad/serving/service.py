"""What the routes share: from a body to its work."""

import threading
from typing import Any

from starlette.concurrency import run_in_threadpool
from transformers import PreTrainedTokenizerBase

from dpad.engine import Engine
from dpad.engine.intake import recipe_of
from dpad.generation import presets
from dpad.generation.config import DPadGenerationConfig
from dpad.generation.recipe import Recipe
from dpad.prompting import encode_chat, encode_text
from dpad.serving.errors import Refused, refusal
from dpad.serving.limits import Limits
from dpad.serving.schema import ChatRequest, CompletionRequest
from dpad.serving.work import Work, checked_biases
from dpad.values import options_of


class Service:
    """One model behind HTTP.

    Args:
        engine: a `dpad.Engine`.
        tokenizer: of its model.
        name: under which it is served.
        limits: `Limits`.
        config: a `DPadGenerationConfig` for bodies without a preset, or None.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        limits: Limits,
        config: DPadGenerationConfig | None = None,
    ) -> None:
        self.engine, self.tokenizer, self.name, self.limits = engine, tokenizer, name, limits
        self.config = config
        # Tokenizers refuse to be used by two threads at a time when one of them changes a setting.
        self._tokenizing = threading.Lock()

    def check_model(self, name: str) -> None:
        """Refuses another model's name."""
        if name != self.name:
            told = f"the model {name[:100]!r} does not exist; this server has {self.name!r}"
            raise Refused(404, told, "model", "model_not_found")

    async def submit(self, body: CompletionRequest | ChatRequest) -> Work:
        """The `Work` of a body, queued; raises `Refused`."""
        self.check(body)
        return await run_in_threadpool(self._submit, body)

    def check(self, body: CompletionRequest | ChatRequest) -> None:
        """Refuses what goes beyond the limits, and another model's name."""
        self.check_model(body.model)
        limits, stops = self.limits, body.stop_strings()
        if len(stops) > limits.stops:
            raise Refused(400, f"stop: {len(stops)} strings, at most {limits.stops}", "stop")
        for stop in stops:
            if not 0 < len(stop) <= limits.stop_length:
                told = f"stop: a string of {len(stop)} characters, expected 1 to "
                raise Refused(400, f"{told}{limits.stop_length}", "stop")
        checked_biases(body.logit_bias, self.engine.adapter.vocab_size)
        length = self.engine.max_length
        if body.max_tokens is not None and body.max_tokens > length:
            told = f"max_tokens = {body.max_tokens}: the longest request has {length} positions"
            field = body.field_of("max_new_tokens")
            raise Refused(400, told, field, "context_length_exceeded")
        if body.steps is not None and body.steps > length:
            raise Refused(400, f"steps = {body.steps}: expected at most {length}", "steps")

    def _submit(self, body: CompletionRequest | ChatRequest) -> Work:
        try:
            prompts = self.prompts(body)
            if not prompts:
                raise Refused(400, "prompt = []: expected at least one", "prompt")
            count = len(prompts) * body.n
            if count > self.limits.choices:
                told = (
                    f"{len(prompts)} prompts, n = {body.n}: at most {self.limits.choices} answers"
                )
                few = len(prompts) <= self.limits.choices
                raise Refused(400, told, "n" if few else "prompt")
            models = self.engine.model, self.engine.adapter
            recipe = recipe_of(*models, self.config_of(body), body.generation_options())
            behind = 0
            if isinstance(body, CompletionRequest) and body.fills:
                prompts, behind = self._with_gaps(body, prompts, recipe)
            seconds = self.limits.seconds
            return Work(self.engine, self.tokenizer, prompts, body, recipe, seconds, behind)
        except (ValueError, TypeError) as error:
            raise Refused(400, str(error), body.field_of(*options_of(error))) from error
        except Exception as error:
            raise refusal(error) from error

    def config_of(self, body: CompletionRequest | ChatRequest) -> DPadGenerationConfig | None:
        """What the options of a body stand on."""
        if body.preset is None:
            return self.config
        try:
            return presets.get(body.preset)
        except KeyError as error:
            raise Refused(400, error.args[0], "preset") from error

    def _with_gaps(
        self, body: CompletionRequest, prompts: list[list[int]], recipe: Recipe
    ) -> tuple[list[list[int]], int]:
        """(prompts with gaps, how many of their last tokens are the text behind)."""
        behind: list[int] = []
        if body.text_behind is not None and body.max_tokens is not None:
            growth, masks = recipe.config.length, body.max_tokens
            masks = masks if growth is None else min(growth.initial_length, masks)
            try:
                with self._tokenizing:
                    behind = encode_text(self.tokenizer, body.text_behind, special=False)
            except ValueError as error:
                raise Refused(400, str(error), "suffix") from error
            if recipe.mask_id in behind:
                raise Refused(400, "suffix: a text with mask tokens", "suffix")
            prompts = [[*p, *[recipe.mask_id] * masks, *behind] for p in prompts]
        for number, prompt in enumerate(prompts):
            if recipe.mask_id not in prompt:
                told = f"prompt: number {number} holds no mask, and infill = true"
                raise Refused(400, told, "prompt")
        return prompts, len(behind)

    def prompts(self, body: CompletionRequest | ChatRequest) -> list[list[int]]:
        """Token ids of each prompt of a body."""
        with self._tokenizing:
            if isinstance(body, ChatRequest):
                return [encode_chat(self.tokenizer, [m.as_turn() for m in body.messages])]
            prompts: Any = body.prompt
            if isinstance(prompts, str) or (prompts and isinstance(prompts[0], int)):
                prompts = [prompts]
            return [
                encode_text(self.tokenizer, p) if isinstance(p, str) else p
                for p in prompts[: self.limits.choices + 1]
            ]
