"""Prompts as token ids: plain text, or the turns of a conversation."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dpad.values import about

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str, special: bool = True) -> list[int]:
    """Token ids (list of int) of a text, if `special` with what the tokenizer puts before it.

    Raises ValueError where the tokenizer refuses the text.
    """
    return _encode(tokenizer, text, special)


def encode_chat(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, str]]
) -> list[int]:
    """Token ids of a conversation by the tokenizer's chat template; the answer comes next.

    Args:
        messages: dicts of "role" and "content". If the last one is the assistant's, it is the
            given start of the answer.

    Raises:
        ValueError: no chat template, a conversation that it refuses, or a text that the tokenizer
            refuses.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise about("input_ids")("the tokenizer has no chat template")
    turns, start = list(messages), ""
    if turns and turns[-1]["role"] == "assistant":
        start = turns.pop()["content"]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates are programs, and raise what they like
        raise about("input_ids")(f"the chat template refuses the conversation: {error}") from error
    return _encode(tokenizer, text + start, False)  # the template has written special tokens


def _encode(tokenizer: "PreTrainedTokenizerBase", text: str, special: bool) -> list[int]:
    try:
        return tokenizer(text, add_special_tokens=special)["input_ids"]
    except Exception as error:  # the Rust tokenizers raise the bare class
        raise about("input_ids")(f"the tokenizer refuses {text[:80]!r}: {error}") from error
