"""The samplers of Dream's double: `diffusion_generate` and its configuration, as released.

The oddities that change tokens or errors are kept: scores in the logits' dtype, one transfer count
for all rows, which writes masks over rows that have fewer left, a configuration that never calls
its base's initialiser and narrows its `validate` (arXiv 2508.15487; released
``generation_utils.py``).
"""

import copy
import warnings
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import GenerationConfig
from transformers.utils import ModelOutput


def sample_tokens(logits, temperature=0.0, top_p=None, top_k=None, score="probability"):
    """Scores and tokens ``[rows]`` of logits ``[rows, vocab]``, in the logits' dtype throughout."""
    floor = torch.finfo(logits.dtype).min
    if temperature > 0:
        logits = logits / temperature
    if top_p is not None and top_p < 1:
        ranked, order = logits.sort(descending=True)
        beyond = ranked.softmax(-1).cumsum(-1) > top_p
        beyond = F.pad(beyond[..., :-1], (1, 0))  # the first beyond the threshold is kept
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), floor)
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < least, floor)
    p = logits.softmax(-1)
    confidence, token = p.max(-1)
    if temperature > 0:
        token = torch.distributions.Categorical(probs=p).sample()
        confidence = p.gather(-1, token[..., None])[..., 0]
    if score == "margin":
        best = p.sort(dim=-1, descending=True).values
        confidence = best[:, 0] - best[:, 1]
    if score == "entropy":
        confidence = (p * (p + 1e-10).log()).sum(-1)
    return confidence, token


SCORES = {"maskgit_plus": "probability", "topk_margin": "margin", "entropy": "entropy"}


@dataclass
class DreamModelOutput(ModelOutput):
    sequences: torch.LongTensor = None
    history: tuple | None = None


class DreamGenerationConfig(GenerationConfig):
    """Never calls its base's initialiser, and narrows its `validate`."""

    def __init__(self, **kwargs):
        defaults = {
            "temperature": 0.0,
            "top_p": None,
            "top_k": None,
            "max_length": 20,
            "max_new_tokens": None,
            "eps": 1e-3,
            "steps": 512,
            "alg": "origin",
            "alg_temp": None,
            "num_return_sequences": 1,
            "return_dict_in_generate": False,
            "output_history": False,
            "mask_token_id": None,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
            "generation_kwargs": {},
            "_from_model_config": False,
            "_commit_hash": None,
            "transformers_version": None,
        }
        for name, value in defaults.items():
            setattr(self, name, kwargs.pop(name, value))
        if not self._from_model_config:
            for name, value in kwargs.items():
                setattr(self, name, value)
        self.validate(is_init=True)

    def validate(self, is_init=False):
        pass


class DreamGenerationMixin:
    def _prepare_generation_config(self, generation_config, **kwargs):
        derived = generation_config is None
        if derived:
            generation_config = DreamGenerationConfig.from_model_config(self.config)
        config = copy.deepcopy(generation_config)
        config.update(**kwargs)
        if not derived:
            for name in ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id"):
                if getattr(config, name) is None:
                    setattr(config, name, getattr(self.generation_config, name))
        return config

    @torch.no_grad()
    def diffusion_generate(self, inputs=None, generation_config=None, **kwargs):
        config = self._prepare_generation_config(generation_config, **kwargs)
        on_tokens = kwargs.pop("generation_tokens_hook_func", lambda step, x, logits: x)
        on_logits = kwargs.pop("generation_logits_hook_func", lambda step, x, logits: logits)
        assert inputs is not None
        mask, length = kwargs.pop("attention_mask", None), inputs.shape[-1]
        if config.max_new_tokens is not None:
            config.max_length = config.max_new_tokens + length
        elif kwargs.get("max_length") is None and config.max_length == 20:
            config.max_length = min(20 + length, self.config.max_position_embeddings)
        if length >= config.max_length:
            raise ValueError(f"input_ids has length {length}, max_length is {config.max_length}")
        if mask is None and torch.any(inputs == config.pad_token_id):
            warnings.warn("padding without attention_mask", UserWarning, stacklevel=2)
        copies = config.num_return_sequences
        if copies > 1:
            inputs = inputs.repeat_interleave(copies, dim=0)
            mask = None if mask is None else mask.repeat_interleave(copies, dim=0)
        return self._sample(inputs, mask, config, on_tokens, on_logits)

    def _sample(
        self,
        input_ids,
        attention_mask,
        generation_config,
        generation_tokens_hook_func,
        generation_logits_hook_func,
    ):
        config, mask_id = generation_config, generation_config.mask_token_id
        more = config.max_length - input_ids.shape[1]
        x = F.pad(input_ids, (0, more), value=mask_id)
        positions, visible = None, "full"
        if attention_mask is not None and torch.any(attention_mask == 0.0):
            real = F.pad(attention_mask, (0, more), value=1.0)
            positions = (real.long().cumsum(-1) - 1).masked_fill(real == 0, 1)
            visible = torch.logical_and(real[:, None, None, :], real[:, None, :, None])
        times = torch.linspace(1, config.eps, config.steps + 1, device=x.device)
        history = [] if config.return_dict_in_generate and config.output_history else None
        x = generation_tokens_hook_func(None, x, None)
        for i in range(config.steps):
            logits = self(x, visible, positions).logits
            logits = torch.cat((logits[:, :1], logits[:, :-1]), dim=1)
            logits = generation_logits_hook_func(i, x, logits)
            share = 1 - times[i + 1] / times[i] if i < config.steps - 1 else 1
            x = self._transfer(x, logits, share, config)
            x = generation_tokens_hook_func(i, x, logits)
            if history is not None:
                history.append(x.clone())
        if config.return_dict_in_generate:
            return DreamModelOutput(sequences=x, history=history)
        return x

    def _transfer(self, x, logits, share, config):
        """Commits a share of the masks; all rows the same number, that of their mean."""
        mask_id, filters = config.mask_token_id, (config.temperature, config.top_p, config.top_k)
        masked = x == mask_id
        if config.alg == "origin":
            drawn = torch.full_like(x[masked], mask_id)
            chosen = torch.rand(*drawn.shape, device=x.device) < share
            _, drawn[chosen] = sample_tokens(logits[masked][chosen], *filters)
            x[masked] = drawn
            return x
        if config.alg not in SCORES:
            raise RuntimeError(f"Unknown alg: {config.alg}")
        confidence, token = sample_tokens(logits[masked], *filters, SCORES[config.alg])
        count = int(masked.sum() / len(x) * share)
        full = torch.full_like(x, -torch.inf, dtype=logits.dtype)
        full[masked] = confidence
        if count == 0:
            return x
        if config.alg_temp:
            chosen = torch.multinomial((full / config.alg_temp).softmax(-1), num_samples=count)
        else:
            chosen = full.topk(count).indices
        proposed = torch.full_like(x, mask_id)
        proposed[masked] = token
        return x.scatter(1, chosen, proposed.gather(1, chosen))
