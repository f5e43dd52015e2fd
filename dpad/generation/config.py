"""`DPadGenerationConfig`: every choice of a decoding run, validated, and saved without loss."""

import copy
import json
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from dpad.generation.fields import (
    ALGS,
    ALIASES,
    COUNTED_ALGS,
    DRAWN_ALGS,
    FIELDS,
    KINDS,
    QUOTA_ALGS,
    RULES,
)
from dpad.generation.names import CLASS_KEY, resolve_names
from dpad.values import about, as_plain, mark

__all__ = ["ALGS", "ALIASES", "FIELDS", "QUOTA_ALGS", "RULES", "DPadGenerationConfig"]

# What Transformers' own `generate` hands to `update` beside options, and wants back.
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class DPadGenerationConfig(GenerationConfig):
    """Options of `dpad.generate` and of a patched model's ``generate``.

    Numbers may be NumPy scalars or tensors without dimensions; None is a value not chosen.

    Args:
        max_new_tokens: length of the generated part in tokens (alias ``gen_length``); with `length`
            the greatest one.
        length: "daedal", a `dpad.Daedal` or a dict of its fields: the model decides how long the
            answer becomes (arXiv 2508.00819). None: `max_new_tokens`.
        infill: the masks in the given ids are filled, wherever they are; the text on both sides
            stays, and is seen. No end id ends anything. Without `length`, `max_new_tokens` has no
            meaning; with it the gaps grow together to as many positions.
        block_length: tokens decoded together, left to right; the last block may be shorter.
            Block-causal models count blocks from position 0, and fill the last one whole.
        sub_block_length: block-causal models fill each block in parts of this length, left to right
            (Fast-dLLM v2, arXiv 2509.26328).
        steps: fixed quota: steps over the whole canvas, by LLaDA's linear schedule (arXiv
            2502.09992). Exactly one of the four commit rules may be given; with none, the family's.
        confidence_threshold: commit every token at least this probable, and the best (Fast-dLLM,
            arXiv 2505.22618; alias ``threshold``). Above 1: one token per step.
        factor: commit the largest m with (j + 1)(1 - p_j) <= factor (Fast-dLLM).
        commit: an adaptive rule of `dpad.rules`, its name ("klass"), or a dict of its kind and
            fields. Prophet's goes with `steps` too.
        entropy_bound: nats; commit by ascending entropy within the bound (arXiv 2505.24857).
            In RND1's and JetEngine's compatible modes it goes with `steps`, which end a block.
        alg: what a fixed quota ranks, by Dream's names (arXiv 2508.15487): "maskgit_plus"
            (probability), "topk_margin" (best minus second-best) or "entropy" (least first).
            "origin": each position commits by a draw of its own, with probability
            1 - t_{i+1} / t_i in step i of `steps`. "confidence_threshold" goes with that option;
            with `steps` too, at most masks / steps tokens per step and as many more as earlier
            steps held back (Fast-dLLM). "low_confidence_dynamic" goes with it as well: with `steps`
            at least masks / steps tokens per step. "sequential": from left to right (both SDAR,
            arXiv 2510.06303).
            "ancestral": in step i each mask becomes a drawn token with probability
            1 - t_{i+1} / t_i, and the best in a last step (MDLM, arXiv 2406.07524); "first_hitting"
            fills one mask per step, any of them (BD3-LM, arXiv 2503.09573). Both draw at a
            `temperature` above 0, published with 1 and `top_p` 0.9, whose nucleus leaves out the
            id that passes it; eps is 1e-5 unless it is given.
        remask: a `dpad.Remask`, its kind, or a dict of its fields: ancestral sampling that masks
            tokens again (ReMDM).
        refine: a `dpad.Refine`, its ratio, or a dict of its fields: the least certain tokens of the
            finished answer are masked and decoded again. Experimental.
        edit: a `dpad.Edit`, its threshold, or a dict of its fields: tokens of the current block are
            replaced while it is decoded. LLaDA2.1 was trained for it.
        alg_temp: draw a fixed quota from softmax(score / alg_temp); 0 takes the best.
        eps: last of the times of Dream's and of ancestral steps, which fall linearly from 1.
        temperature: Gumbel noise on the logits; 0 is greedy.
        top_p, top_k: keep the nucleus and the k best of softmax(logits / temperature); the scores
            are those of what is kept.
        cfg_scale: classifier-free guidance w: logits u + (w + 1)(c - u), u with all given text
            masked (LLaDA, arXiv 2502.09992); 0 is off. Doubles the rows of every pass.
        remasking: "low_confidence", or "random": the rule ranks uniform draws (LLaDA, algorithm 4).
        logits_eos_inf: end ids are never chosen (LLaDA, appendix B.4).
        confidence_eos_eot_inf: end ids keep their prediction with confidence 0, so that they are
            committed last (LLaDA, appendix B.4).
        suffix: `dpad.Suffix`, a dict of its fields, or the name of its kind ("gaussian").
        cache: "none" (or False); "prefix" (or True) keeps K/V of everything before the block;
            "dual" also of the suffix. Both are approximations within a block (up to 4 points on
            8-shot GSM8K, arXiv 2505.22618, table 7). With block-causal attention "prefix" is exact;
            "dual" keeps the rest of the block too while a part of it is filled.
        refresh: what the first pass of a block computes anew with a cache: "full", everything; or
            "recent", from the block before on: older K/V stay as they are, and a long answer costs
            rows that grow with its length and not with its square. An approximation. On CUDA such
            passes are replayed as graphs, as cached steps are.
        refresh_period: with "recent", everything is computed anew every so many blocks.
        look_back: with "recent", how many blocks before its own a block computes anew; default 1.
        early_stop: end a row when a finished block holds an end-of-text id; with block-causal
            attention as soon as no mask precedes one.
        seed: of all random draws; None draws one, returned with the output.
        row_keys: one int per row, what its draws are keyed by; default 0, 1, ...
        mask_token_id, eos_token_id (int or list), pad_token_id: default to the model's.
        micro_batch: rows decoded together at most; results do not depend on it.
        batch_invariant: decode each row alone, so that its result is bitwise that of batch 1.
        compatible: name of a published decoder whose quirks are to be kept, see
            `dpad.generation.compat`.
        num_return_sequences: rows decoded from each prompt, next to each other.
        return_dict_in_generate: return a `DPadOutput`.
        output_history: keep the canvas after every step in it.
        trace: record every commit (implies ``return_dict_in_generate``).

    Raises:
        TypeError: an unknown option.
        ValueError: a value out of range, or conflicting options; the message names both.
    """

    if TYPE_CHECKING:  # the fields

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, **kwargs: Any) -> None:
        values = resolve_names(kwargs)
        self._ready = False
        super().__init__()
        for name, default in FIELDS.items():
            setattr(self, name, copy.copy(values.get(name, default)))
        self._given = set(values)
        del self._ready
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets a field, also by another name of it; TypeError for a name that means nothing."""
        mine = self.__dict__  # with "_ready" while Transformers makes the object
        kept = name in FIELDS or name[0] == "_" or name in mine or "_ready" in mine
        for known, resolved in ({name: value} if kept else resolve_names({name: value})).items():
            super().__setattr__(known, resolved)

    def validate(self, *args: Any, **kwargs: Any) -> None:
        """Checks every field; Transformers' own rules (on temperature, sampling) do not apply."""
        if hasattr(self, "_ready"):
            return
        for name, kind in KINDS.items():
            value = getattr(self, name)
            try:
                if value is not None:
                    setattr(self, name, kind(name, value))
            except ValueError as error:
                mark(error, name)  # also if it is about a part of the option
                raise
        self._check_rule()

    def _check_rule(self) -> None:
        """Refuses commit options that do not go together."""
        given = [n for n in RULES if getattr(self, n) is not None]
        counted = self.alg in COUNTED_ALGS
        both = [["steps", "confidence_threshold"]] if counted else []
        if self.compatible in ("jetengine", "rnd1", "rnd1-sample"):  # steps also bound a block
            both.append(["steps", "entropy_bound"])
        if self.commit is not None and self.commit.takes_steps:
            both.append(["steps", "commit"])
        if len(given) > 1 and given not in both:
            shown = ", ".join(f"{n} = {getattr(self, n)!r}" for n in given)
            raise about(*given)(f"{shown}: these are different commit rules, give one")
        if self.commit is not None:
            self._check_adaptive()
        other = [n for n in given if n != "steps"]
        if counted and given and other != ["confidence_threshold"]:
            raise about("alg", given[0])(
                f"alg = {self.alg!r} goes with confidence_threshold, not {given[0]}"
            )
        for name, value in (("remasking", "random"), *(("alg", a) for a in QUOTA_ALGS)):
            if getattr(self, name) == value and other:
                raise about(name, other[0])(
                    f"{name} = {value!r} and {other[0]} = {getattr(self, other[0])!r}: {value} "
                    "goes with steps"
                )
        self._check_drawn(given)
        self._check_refined()
        self._check_edited()
        if self.alg_temp and (other or self.alg not in ("maskgit_plus", *QUOTA_ALGS[1:3])):
            raise about("alg_temp")(
                f"alg_temp = {self.alg_temp!r}: it draws a fixed quota, see steps"
            )
        if self.remasking == "random" and (self.alg != "maskgit_plus" or self.alg_temp):
            raise about("remasking", "alg", "alg_temp")(
                f"remasking = 'random' and alg = {self.alg!r}, alg_temp = {self.alg_temp!r}: "
                "random order ranks no score"
            )

    def _check_drawn(self, given: list[str]) -> None:
        """Ancestral sampling, with and without masking again, is a rule of its own."""
        name = None
        if self.remask is not None:
            name, named = "remask", f"remask = {self.remask!r}"
            if self.alg not in ("maskgit_plus", "ancestral"):
                raise about(name, "alg")(
                    f"{named} and alg = {self.alg!r}: it goes with 'ancestral'"
                )
        elif self.alg in DRAWN_ALGS:
            name, named = "alg", f"alg = {self.alg!r}"
        if name is None:
            return
        program = self.compatible == "bd3lm"
        takes = ("steps",) if self.alg != "first_hitting" or program else ()
        other = [n for n in given if n not in takes]
        if self.length is not None and self.alg != "first_hitting":
            other.append("length")
        if self.compatible is not None and not (program and self.remask is None):
            other.append("compatible")
        if self.remasking == "random":
            other.append("remasking")
        if other:
            value = getattr(self, other[0])
            raise about(name, other[0])(
                f"{named} and {other[0]} = {value!r}: it is a rule of its own"
            )

    def _check_refined(self) -> None:
        """What a finished draft cannot be refined with."""
        if self.refine is None:
            return
        other = [n for n in ("compatible", "length", "remask") if getattr(self, n) is not None]
        if self.commit is not None and self.commit.remembers:
            other.append("commit")  # it has room for a block of the usual length
        if other:
            value = getattr(self, other[0])
            raise about("refine", other[0])(
                f"refine = {self.refine!r} and {other[0]} = {value!r} do not go together"
            )

    def _check_edited(self) -> None:
        """What changes tokens in other ways than an edit."""
        if self.edit is None:
            return
        names = ("compatible", "length", "remask", "refine", "sub_block_length")
        other = [n for n in names if getattr(self, n) is not None]
        other += [n for n in ("infill", "output_history") if getattr(self, n)]
        other += ["alg"] * (self.alg in DRAWN_ALGS)
        if other:
            value = getattr(self, other[0])
            raise about("edit", other[0])(
                f"edit = {self.edit!r} and {other[0]} = {value!r} do not go together"
            )

    def _check_adaptive(self) -> None:
        """An adaptive rule is a decoder's own."""
        if self.compatible is not None:
            raise about("commit", "compatible")(
                f"commit = {self.commit!r} and compatible = {self.compatible!r}: the published "
                "decoder has a rule of its own"
            )

    def update(self, **kwargs: Any) -> dict[str, Any]:
        """Sets fields (aliases allowed) and validates; unknown options raise TypeError.

        Returns what is not an option but an input of the model, as Transformers expects it. With
        its `defaults_only` (another configuration's values for what is open here) options stay.
        """
        if kwargs.pop("defaults_only", False):
            for name, value in kwargs.items():
                if name not in FIELDS and getattr(self, name, value) is None:
                    setattr(self, name, value)
            return {}
        unused = {n: kwargs.pop(n) for n in MODEL_INPUTS if n in kwargs}
        before = {**self.__dict__, "_given": set(self._given)}
        try:
            for name, value in resolve_names(kwargs).items():
                setattr(self, name, value)
                self._given.add(name)
            self.validate()
        except BaseException:
            self.__dict__ = before  # refused as a whole
            raise
        return unused

    def given(self) -> dict[str, Any]:
        """Field -> value of what was chosen: named in a call, or set to something else."""
        values = {n: getattr(self, n) for n in FIELDS}
        chosen = {n for n in FIELDS if n in self._given or values[n] != FIELDS[n]}
        return {n: values[n] for n in sorted(chosen) if values[n] is not None}

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {name: as_plain(copy.copy(getattr(self, name))) for name in FIELDS}

    def to_diff_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as plain values."""
        return {n: v for n, v in self.to_dict().items() if v != FIELDS[n]}

    def to_json_string(self, use_diff: bool = True, **_: Any) -> str:
        """What `save_pretrained` writes: the fields that were chosen, defaults among them too."""
        values = self.to_dict()
        if use_diff:
            values = {n: values[n] for n in self.given()}
        return json.dumps({CLASS_KEY: type(self).__name__, **values}, indent=2) + "\n"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DPadGenerationConfig) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __repr__(self) -> str:
        fields = ", ".join(f"{n}={v!r}" for n, v in self.to_diff_dict().items())
        return f"DPadGenerationConfig({fields})"
