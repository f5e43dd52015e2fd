"""The options of a decoding run: their names, kinds and defaults, and other names for them."""

from collections.abc import Callable
from typing import Any

from dpad.decode import commit
from dpad.decode.ancestral import remask
from dpad.decode.daedal import Daedal
from dpad.decode.edit import Edit
from dpad.decode.refine import Refine
from dpad.decode.rules import adaptive_rule
from dpad.decode.suffix import Suffix
from dpad.values import (
    MOST_POSITIONS,
    MOST_ROWS,
    Kind,
    flag,
    int64,
    one_of,
    plain,
    real,
    refuse,
    several,
    token_id,
    token_ids,
    whole,
)

RULES = tuple(commit.KINDS)
# Dream's and SDAR's names -> what the rule ranks.
ALGS = {
    "maskgit_plus": "probability",
    "topk_margin": "margin",
    "entropy": "negative_entropy",
    "origin": "uniform",
    "confidence_threshold": "probability",
    "sequential": "position",
    "low_confidence_dynamic": "probability",
    "ancestral": "ancestral",
    "first_hitting": "uniform",
}
COUNTED_ALGS = ("confidence_threshold", "low_confidence_dynamic")  # a threshold, and steps
DRAWN_ALGS = ("ancestral", "first_hitting")  # each token is drawn
# These leave no other rule.
QUOTA_ALGS = ("sequential", "topk_margin", "entropy", "origin", *DRAWN_ALGS)
CACHES = ("none", "prefix", "dual")


def _object(made: type[Any], by_name: Callable[[str], Any], expected: str) -> Kind:
    """A kind: an object of the class `made`, a dict of its fields, or one that a name stands for
    (a function of it, None for a name that it does not know).
    """

    def check(name: str, value: Any) -> Any:
        if isinstance(value, made):
            return value
        found = by_name(value) if isinstance(value, str) else None
        if found is not None:
            return found
        if not isinstance(value, dict):
            raise ValueError(f"{name} = {value!r}: expected {expected}")
        unknown = sorted(map(str, set(value) - set(made.__dataclass_fields__)))
        if unknown:
            known, kind = ", ".join(made.__dataclass_fields__), made.__name__
            holds = f"{name} holds {', '.join(unknown)}"
            raise ValueError(f"{holds}: the fields of a {kind} are {known}")
        return made(**value)

    return check


_suffix = _object(Suffix, Suffix, "a dpad.Suffix, a dict of its fields or its kind")
_length = _object(
    Daedal,
    lambda name: Daedal() if name == "daedal" else None,
    "a dpad.Daedal, a dict of its fields or 'daedal'",
)


def _by_first(made: type[Any], what: str) -> Kind:
    """A `Refine` or `Edit`, its fields, or the number that is its first field, in words `what`."""

    def check(name: str, value: Any) -> Any:
        if isinstance(value, made):
            return value
        if isinstance(value, dict) and not set(value) - set(made.fields):
            return made(**value)
        first = plain(value)
        if isinstance(first, float):
            return made(first)
        fields, kind = ", ".join(made.fields), made.__name__
        refuse(name, value, f"a dpad.{kind}, its {what}, or a dict of its fields ({fields})")

    return check


def _cache(name: str, value: Any) -> str:
    """One of `CACHES`; as Fast-dLLM's `use_cache`, True is "prefix" and False "none"."""
    switch = plain(value)
    if isinstance(switch, bool):
        return "prefix" if switch else "none"
    return one_of(*CACHES)(name, value)


def _compatible(name: str, value: Any) -> str:
    from dpad.generation.compat import COMPATIBLE

    return one_of(*COMPATIBLE)(name, value)


# Field -> (kind, default). None stands for a value that was not chosen, of every field; where it is
# the default too, the model's family and variant fill it in.
_TABLE = {
    "max_new_tokens": (whole(1, MOST_POSITIONS), None),
    "length": (_length, None),
    "infill": (flag, False),
    "block_length": (whole(1), None),
    "sub_block_length": (whole(1), None),
    **{n: (real(kind.least), None) for n, kind in commit.KINDS.items()},
    "steps": (whole(1, MOST_POSITIONS), None),
    "commit": (adaptive_rule, None),
    "alg": (one_of(*ALGS), "maskgit_plus"),
    "alg_temp": (real(0), 0.0),
    "eps": (real(0, 1, above=True), 1e-3),
    "temperature": (real(0), 0.0),
    "top_p": (real(0, 1, above=True), None),
    "top_k": (whole(1), None),
    "cfg_scale": (real(0), 0.0),
    "remask": (remask, None),
    "refine": (_by_first(Refine, "ratio"), None),
    "edit": (_by_first(Edit, "threshold"), None),
    "remasking": (one_of("low_confidence", "random"), "low_confidence"),
    "logits_eos_inf": (flag, False),
    "confidence_eos_eot_inf": (flag, False),
    "suffix": (_suffix, None),
    "cache": (_cache, None),
    "refresh": (one_of("full", "recent"), "full"),
    "refresh_period": (whole(1), None),
    "look_back": (whole(1), None),
    "early_stop": (flag, None),
    "seed": (int64, None),
    "row_keys": (several(int64, "a list of 64-bit integers"), None),
    "mask_token_id": (token_id, None),
    "eos_token_id": (token_ids, None),
    "pad_token_id": (token_id, None),
    "micro_batch": (whole(1), None),
    "batch_invariant": (flag, False),
    "compatible": (_compatible, None),
    "num_return_sequences": (whole(1, MOST_ROWS), 1),
    "return_dict_in_generate": (flag, False),
    "output_history": (flag, False),
    "trace": (flag, False),
}
KINDS = {name: kind for name, (kind, _) in _TABLE.items()}
FIELDS = {name: default for name, (_, default) in _TABLE.items()}

# Names of LLaDA's, Dream's and Fast-dLLM's samplers, and of Transformers' diffusion interface.
ALIASES = {
    "gen_length": "max_new_tokens",
    "block_size": "block_length",
    "threshold": "confidence_threshold",
    "max_denoising_steps": "steps",
    "mask_id": "mask_token_id",
    "eos_id": "eos_token_id",
    "early_termination": "early_stop",
    "return_dict": "return_dict_in_generate",
}
