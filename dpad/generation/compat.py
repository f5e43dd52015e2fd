"""Published decoders whose quirks can be asked for by name, and what the quirks are.

`raw_canvas`: tokens after an end id stay as decoded. `published_factor`: the factor rule overlooks
a failure of the last candidate. `round_scores`: confidence is rounded to the logits' dtype, and so
is the threshold it is compared with.
`published_shift`: a model that predicts from the predecessor leaves it out of cached passes, and a
refresh commits the block's first position only. `schedule`: how fixed steps are spread, with
`cohort` by the mean of the masks of the call's rows.
`ranks`: what a fixed quota ranks, whatever `alg` is named. `barred_ends`: how many of the end ids
`logits_eos_inf` bars, the first being end-of-text (LLaDA's end-of-turn stays).
`sampled_ends`: how many of them, from the first on, `confidence_eos_eot_inf` does not touch at a
temperature above 0 (LLaDA sets end-of-text in a copy that nobody reads then).
`tempered`: scores are those of the distribution that tokens are drawn from, temperature included.
`whole_canvas`: one block, as long as the generated part, unless a block length is given.
`defaults` hold where the configuration leaves a field open.
"""

from dpad.decode.suffix import Suffix

_FULL = {"suffix": Suffix("all"), "cache": "none", "early_stop": False}
# Dream's own sampler, with the defaults of its configuration class.
_DREAM = {
    "raw_canvas": True,
    "round_scores": True,
    "tempered": True,
    "schedule": "dream",
    "cohort": True,
    "whole_canvas": True,
}
# Both decoders of Dream in blocks.
_DREAM_BLOCKS = {
    "raw_canvas": True,
    "round_scores": True,
    "published_shift": True,
    "tempered": True,
    "schedule": "dream-block",
    "cohort": True,
    "ranks": "entropy",
}

COMPATIBLE = {
    "llada": {
        "raw_canvas": True,
        "round_scores": True,
        "barred_ends": 1,
        "sampled_ends": 1,
        "defaults": _FULL,
    },
    "fast-dllm-llada": {"raw_canvas": True, "published_factor": True, "defaults": _FULL},
    "dpad-llada": {
        "raw_canvas": True,
        "published_factor": True,
        "defaults": {"suffix": Suffix("gaussian"), "cache": "none", "early_stop": True},
    },
    "dream": {
        **_DREAM,
        "defaults": {**_FULL, "max_new_tokens": 20, "steps": 512, "alg": "origin"},
    },
    # What the same call did on Transformers 4.x, where the model's configuration carries the
    # library's own defaults of sampling.
    "dream-transformers-4": {
        **_DREAM,
        "defaults": {
            **_FULL,
            "max_new_tokens": 20,
            "steps": 512,
            "alg": "origin",
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 50,
        },
    },
    "fast-dllm-dream": {
        **_DREAM_BLOCKS,
        "defaults": _FULL,
    },
    "dpad-dream": {
        **_DREAM_BLOCKS,
        "defaults": {
            "suffix": Suffix("gaussian", window=256, decay=4.0, scale=1.6),
            "cache": "none",
            "early_stop": True,
        },
    },
}


def quirks(name):
    """The row of `name`, or an empty one."""
    return COMPATIBLE.get(name, {})
