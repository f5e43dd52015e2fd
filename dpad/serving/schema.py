"""Bodies of requests. Fields that are not listed are refused by name."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, WrapValidator, model_validator

from dpad.generation.fields import ALIASES
from dpad.values import about

# Whole numbers that every operator can take, and token ids.
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
# Positions of a suffix: a table as long as this is made for it.
Span = Annotated[int, Field(ge=0, le=2**20)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
# Large enough for every use, small enough for float16 logits.
Weight = Annotated[float, Field(ge=0, le=1000)]


# Option of `generate` -> the fields that it goes by.
NAMES = {field: (alias, field) for alias, field in ALIASES.items()}
NAMES["max_new_tokens"] = ("max_completion_tokens", "max_tokens")
NAMES["input_ids"] = ("prompt", "messages")


class Body(BaseModel):
    """A JSON object whose fields that are null count as not given."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: entry for name, entry in value.items() if entry is not None}


class SuffixOptions(Body):
    """Fields of `dpad.Suffix`."""

    kind: str | None = None
    window: Span | None = None
    decay: Weight | None = None
    scale: Weight | None = None
    density: Share | None = None
    count: Annotated[float, Field(ge=0, le=2**20)] | None = None
    near: Span | None = None
    keep_last: bool | None = None


class Options(Body):
    """dpad's own options: fields of `DPadGenerationConfig`, or a preset by its name."""

    preset: str | None = None
    block_length: Count | None = None
    steps: Count | None = None
    confidence_threshold: Weight | None = None
    threshold: Weight | None = None
    factor: Weight | None = None
    entropy_bound: Weight | None = None
    commit: str | dict[str, str | int | float] | None = None
    remask: str | dict[str, str | int | float] | None = None
    refine: float | dict[str, str | int | float] | None = None
    edit: float | dict[str, int | float] | None = None
    length: str | dict[str, int | float | bool] | None = None
    refresh: str | None = None
    refresh_period: Count | None = None
    look_back: Count | None = None
    sub_block_length: Count | None = None
    alg: str | None = None
    alg_temp: Annotated[float, Field(ge=0, le=100)] | None = None
    eps: Share | None = None
    top_k: Count | None = None
    cfg_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    remasking: str | None = None
    logits_eos_inf: bool | None = None
    confidence_eos_eot_inf: bool | None = None
    suffix: SuffixOptions | None = None
    cache: str | None = None
    early_stop: bool | None = None
    batch_invariant: bool | None = None
    compatible: str | None = None


class StreamOptions(Body):
    """`include_usage` as OpenAI has it; `drafts`: every step sends what the block looks like."""

    include_usage: bool = False
    drafts: bool = False


class Request(Options):
    """What completions and chat share; the names are OpenAI's."""

    model: str
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Count = 1
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _streams(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise about("stream_options")("stream_options goes with stream = true")
        return self

    def field_of(self, *options: str) -> str | None:
        """The field that options of `generate` were given by: the first that the body holds, else
        the first that it may hold.
        """
        names = [name for option in options for name in NAMES.get(option, (option,))]
        given = [name for name in names if name in self.model_fields_set]
        known = [name for name in names if name in type(self).model_fields]
        return next(iter(given + known), None)

    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def generation_options(self, left_out: Sequence[str] = ()) -> dict[str, Any]:
        """Options of `generate`: name -> value; fields that are `left_out` are none."""
        names = set(Options.model_fields) | {"temperature", "top_p"}
        names -= {"preset", *left_out}
        values = self.model_dump(include=names, exclude_none=True)
        if self.max_tokens is not None:
            values["max_new_tokens"] = self.max_tokens
        return values


class CompletionRequest(Request):
    """Body of ``/v1/completions``: texts or token ids.

    With `infill` the mask tokens in the prompt are filled. A `suffix` that is a text stands behind
    the answer, as OpenAI has it: what is filled is the gap between prompt and suffix.
    """

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    infill: bool = False
    suffix: Annotated[
        SuffixOptions | None,
        WrapValidator(
            lambda value, options: value if isinstance(value, str) else options(value),
            json_schema_input_type=str | SuffixOptions | None,
        ),
    ] = None

    @property
    def text_behind(self) -> str | None:
        """The text behind the answer, or None."""
        return self.suffix if self.suffix and isinstance(self.suffix, str) else None

    @property
    def fills(self) -> bool:
        """Whether gaps are filled: what is answered begins with the first one."""
        return self.infill or self.text_behind is not None

    @model_validator(mode="after")
    def _gaps(self) -> Self:
        if not self.fills:
            return self
        if self.stop_strings():
            raise about("stop")("stop goes with an answer behind a prompt, not with gaps")
        if self.text_behind is not None and self.max_tokens is None:
            raise about("suffix")(
                "suffix needs max_tokens: so many masks stand between it and prompt"
            )
        if self.text_behind is None and self.max_tokens is not None and self.length is None:
            raise about("max_tokens", "infill")(
                "max_tokens and infill: gaps that do not grow have their masks"
            )
        return self

    def generation_options(self, left_out: Sequence[str] = ()) -> dict[str, Any]:
        """As of every `Request`; a text is no option."""
        text = ("suffix",) if isinstance(self.suffix, str) else ()
        options = super().generation_options((*left_out, *text))
        return {**options, "infill": True} if self.fills else options


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(Body):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def as_turn(self) -> dict[str, str]:
        """What a chat template takes."""
        text = self.content
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        return {"role": self.role, "content": text}


class ChatRequest(Request):
    """Body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None

    @model_validator(mode="after")
    def _length(self) -> Self:
        newer = self.max_completion_tokens
        if newer is not None and self.max_tokens not in (None, newer):
            raise about("max_tokens", "max_completion_tokens")(
                "max_tokens and max_completion_tokens differ"
            )
        self.max_tokens = self.max_tokens if newer is None else newer
        return self
