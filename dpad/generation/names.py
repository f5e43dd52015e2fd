"""Options by whatever name they were given: aliases, Transformers' own, and what stands nearest."""

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig

from dpad.generation.fields import ALIASES, FIELDS
from dpad.values import about, flag, plain, shown

# Saved files say whose they are: a field may have the same name and another meaning elsewhere.
CLASS_KEY = "generation_config_class"
BOOKKEEPING = ("transformers_version", CLASS_KEY)

_PROCESSOR = "logits_processor=[transformers.{}(...)]"
_CRITERIA = "stopping_criteria=[transformers.{}(...)]"
_FORWARD = "the model's forward, on the ids that were generated, gives them"
# Options of other decoders -> what does the same here.
NEAREST = {
    "max_length": "max_new_tokens=, the length of the answer alone",
    "min_new_tokens": _PROCESSOR.format("MinNewTokensLengthLogitsProcessor"),
    "min_length": _PROCESSOR.format("MinLengthLogitsProcessor"),
    "stop_strings": _CRITERIA.format("StopStringCriteria"),
    "max_time": _CRITERIA.format("MaxTimeCriteria"),
    "min_p": _PROCESSOR.format("MinPLogitsWarper"),
    "typical_p": _PROCESSOR.format("TypicalLogitsWarper"),
    "repetition_penalty": _PROCESSOR.format("RepetitionPenaltyLogitsProcessor"),
    "no_repeat_ngram_size": _PROCESSOR.format("NoRepeatNGramLogitsProcessor"),
    "bad_words_ids": _PROCESSOR.format("NoBadWordsLogitsProcessor"),
    "suppress_tokens": _PROCESSOR.format("SuppressTokensLogitsProcessor"),
    "sequence_bias": _PROCESSOR.format("SequenceBiasLogitsProcessor"),
    "prefix_allowed_tokens_fn": _PROCESSOR.format("PrefixConstrainedLogitsProcessor"),
    "guidance_scale": "cfg_scale=, which is guidance_scale - 1",
    "num_beams": "num_return_sequences= with temperature=; there is no beam search",
    "output_scores": "trace=True for the probability of every token; callback_on_step_end= with "
    "'confidence', or a streamer that takes logits, for what each step saw",
    "output_logits": "a streamer with put_draft that takes logits; there is one tensor per step, "
    "too large to keep",
    "output_attentions": _FORWARD,
    "output_hidden_states": _FORWARD,
    "past_key_values": "nothing: the prompt is computed in every call",
    "assistant_model": "nothing: there is no assisted decoding",
    "dual_cache": "cache='dual'",
    "use_dual_cache": "cache='dual'",
}


def unknown(name: str, value: object) -> TypeError:
    """The TypeError of an option that nobody knows, with what stands nearest."""
    if name in NEAREST:
        return TypeError(f"unknown option {name!r} = {shown(value)}: pass {NEAREST[name]}")
    return TypeError(
        f"unknown option {name!r} = {shown(value)}; known: {', '.join(sorted(FIELDS))}, and the "
        f"aliases {', '.join(sorted(ALIASES))}"
    )


def resolve_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Field -> value with aliases translated; values are not looked at.

    Raises:
        TypeError: an unknown option, by name.
        ValueError: an option and its alias, or two aliases, with different values.
    """
    values: dict[str, Any] = {}
    named: dict[str, str] = {}
    for name, value in _translated(given).items():
        if name.startswith("_") or name in BOOKKEEPING:
            continue  # of saved configurations
        field = ALIASES.get(name, name)
        if field not in FIELDS:
            raise unknown(name, value)
        if field in values and not _same(values[field], value):
            raise about(named[field], name)(
                f"{named[field]} = {shown(values[field])} and {name} = {shown(value)} name the "
                f"same option {field!r}"
            )
        values[field], named[field] = value, name
    return values


def set_options(config: GenerationConfig) -> dict[str, Any]:
    """Option -> value of what was set in a configuration of Transformers' own class.

    What only sampling reads is dropped where it does not sample, as Transformers ignores it there.
    """
    values = {n: v for n, v in config.to_diff_dict().items() if v is not None}
    if not values.get("do_sample", False):
        values = {n: v for n, v in values.items() if n not in ("temperature", "top_p", "top_k")}
    elif values.get("temperature") is None:
        values["temperature"] = 1.0
    values.pop("bos_token_id", None)  # no decoder reads it
    return values


def _same(value: object, other: object) -> bool:
    try:
        return bool(plain(value) == plain(other))
    except (RuntimeError, ValueError):  # arrays of several values
        return False


def _translated(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options without Transformers' switches, which say in other words what an option says.

    ``do_sample=False`` is temperature 0, ``do_sample=True`` asks for one; ``use_cache=False`` is
    ``cache="none"``, ``use_cache=True`` asks for no cache in particular, which here would change
    what is decoded.
    """
    values = dict(given)
    for name, field, off in (("do_sample", "temperature", 0.0), ("use_cache", "cache", "none")):
        if values.get(name) is None:
            values.pop(name, None)
            continue
        switched, chosen = flag(name, values.pop(name)), plain(values.get(field))
        if not switched and chosen not in (None, off, False):
            raise about(name, field)(
                f"{name} = False and {field} = {shown(chosen)} contradict each other"
            )
        if not switched:
            values[field] = off
        elif field == "temperature" and not chosen:
            raise about("do_sample", "temperature")(
                f"do_sample = True and temperature = {shown(chosen)}: pass temperature= above 0 "
                "(Transformers' own default is 1.0)"
            )
    return values
