"""Dream without remote code: the released configuration and weight names on plain torch.

Covers Dream-v0-Base-7B, Dream-v0-Instruct-7B, Dream-Coder-7B and DiffuCoder-7B (arXiv 2508.15487)
and any smaller model of that shape. Its logits are not shifted: row i predicts position i + 1.
"""

from typing import Any, ClassVar

from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import ModelOutput

from dpad.models.hf.decoder import DecoderLM
from dpad.models.hf.decoder_config import DecoderConfig

__all__ = ["DreamConfig", "DreamModel"]


class DreamConfig(DecoderConfig):
    """Dream's configuration; the sizes are those of Dream-v0-7B."""

    model_type = "Dream"
    qkv_bias: ClassVar[bool] = True
    o_bias: ClassVar[bool] = False
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "mask_token_id": 151666,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "pad_token_id": 151643,
    }


class DreamModel(DecoderLM):
    """Dream with its language-model head; same weights as the released class of this name."""

    config_class = DreamConfig
    output_class = MaskedLMOutput

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | str | None = None,
        position_ids: Tensor | None = None,
        past_key_values: object = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        num_logits_to_keep: int = 0,
    ) -> ModelOutput | tuple[Any, ...]:
        """As `DecoderLM.forward`, by the released names.

        `attention_mask` may also be "full", which is None; `num_logits_to_keep`: last rows only.
        """
        if isinstance(attention_mask, str):
            if attention_mask != "full":
                raise ValueError(f"attention_mask = {attention_mask!r}: expected 'full'")
            attention_mask = None
        return super().forward(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            labels,
            use_cache,
            output_attentions,
            output_hidden_states,
            return_dict,
            cache_position,
            num_logits_to_keep,
        )
