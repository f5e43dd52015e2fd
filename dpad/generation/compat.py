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
`attention`: of the models it is for, "full" unless it is said.
Of block-causal decoders: `saves_apart`: prompt and finished blocks are saved in passes of their
own; `whole_blocks`: the result has all tokens of the last block; `keeps_masks`: behind a block that
ends the text the masks stay; `top_k_first`: the nucleus is that
of the k best; `before_filters`: scores are those before top-p and top-k; `strict`:
the threshold itself is not enough; `runs`: `commit.sure_or_run`; `entropy_sum`: its rule for
`entropy_bound`; `bounded`: a block ends with its steps; `next_token`: the canvas ends with the
first token of a block that is not decoded, `longest`: for all rows with that of the longest, whose
program also rebuilds the caches of all rows at once (`coupled`), which is refused;
`greedy_unfiltered`: no nucleus at temperature 0; `stop_in`: when an end id is looked for.
`kept_place`: the last place of the canvas holds the pad from the start and is not decoded;
`surest_within`: its rule for `entropy_bound`.
`infills`: it fills gaps in a text. `predicts_masks`: `commit.threshold_of_tokens`; `cut_initial`:
an initial length beyond the greatest one is cut to it.
`draws`: it is for the `alg`s that draw tokens, with `last` of `commit.ancestral_steps`;
`length_rules`: `LengthRules`, and nothing else ends a text; `forgets`: of a longer text a pass sees
as many positions as the model has, and with a cache no block that was not finished.
`defaults` hold where the configuration leaves a field open.
"""

from typing import Any

from dpad.decode.daedal import Daedal
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

_BLOCKS = {"suffix": Suffix("none"), "cache": "prefix", "early_stop": True}
_DYNAMIC = {
    "alg": "low_confidence_dynamic",
    "confidence_threshold": 0.85,
    "block_length": 4,
    "temperature": 1.0,
}
_SUB_BLOCKS = {"block_length": 32, "sub_block_length": 8, "confidence_threshold": 1.0}
_SDAR = {
    "attention": "block-causal",
    "raw_canvas": True,
    "whole_blocks": True,
    "keeps_masks": True,
    "saves_apart": True,
    "tempered": True,
    "top_k_first": True,
    "strict": True,
    "stop_in": "block",
}
_FAST_V2 = {
    "attention": "block-causal",
    "saves_apart": True,
    "tempered": True,
    "strict": True,
    "next_token": True,
    "greedy_unfiltered": True,
}

_RND1 = {
    "raw_canvas": True,
    "tempered": True,
    "top_k_first": True,
    "schedule": "share",
    "ranks": "entropy",
    "surest_within": True,
    "whole_canvas": True,
    "infills": True,
}
_STEPS = {"max_new_tokens": 256, "steps": 256}

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
    # RND1's `generate`, and its `diffusion_sample` behind nothing but a begin-of-text token.
    "rnd1": {
        **_RND1,
        "kept_place": True,
        "defaults": {**_FULL, **_STEPS, "temperature": 0.1},
    },
    "rnd1-sample": {**_RND1, "defaults": {**_FULL, **_STEPS}},
    # DAEDAL's program (arXiv 2508.00819); its batches see the padding on the left as text.
    "daedal": {
        "raw_canvas": True,
        "strict": True,
        "predicts_masks": True,
        "cut_initial": True,
        "defaults": {
            **_FULL,
            "length": Daedal(),
            "max_new_tokens": 2048,
            "block_length": 32,
            "confidence_threshold": 0.9,
        },
    },
    # SDAR's script (arXiv 2510.06303), and the decoder of its evaluation.
    "sdar": {**_SDAR, "defaults": {**_BLOCKS, **_DYNAMIC}},
    "sdar-eval": {**_SDAR, "before_filters": True, "defaults": _BLOCKS},
    "jetengine": {
        **_SDAR,
        "keeps_masks": False,
        "before_filters": True,
        "runs": True,
        "entropy_sum": True,
        "bounded": True,
        "defaults": _BLOCKS,
    },
    "lmdeploy": {
        **_SDAR,
        "keeps_masks": False,
        "before_filters": True,
        "strict": False,
        "schedule": "floor",
        "defaults": _BLOCKS,
    },
    # The sampler of its repository (arXiv 2503.09573), first hitting.
    "bd3lm": {
        "attention": "block-causal",
        "raw_canvas": True,
        "whole_blocks": True,
        "saves_apart": True,
        "forgets": True,
        "bounded": True,
        "length_rules": True,
        "draws": True,
        "defaults": {
            **_BLOCKS,
            "early_stop": False,
            "max_new_tokens": 1023,
            "alg": "first_hitting",
            "temperature": 1.0,
            "top_p": 0.9,
        },
    },
    # `generate` of the released model (arXiv 2509.26328), and `batch_sample` of its repository.
    "fast-dllm-v2": {**_FAST_V2, "stop_in": "text", "defaults": {**_BLOCKS, **_SUB_BLOCKS}},
    "fast-dllm-v2-batch": {
        **_FAST_V2,
        "longest": True,
        "coupled": True,
        "stop_in": "block",
        "defaults": {**_BLOCKS, **_SUB_BLOCKS, "confidence_threshold": 0.95},
    },
}


def quirks(name: object) -> dict[str, Any]:
    """The row of `name`, or an empty one, also of what is no name and refused elsewhere."""
    return COMPATIBLE.get(name, {}) if isinstance(name, str) else {}
