"""Families whose classes are Transformers' own with another attention: A2D and Open-dCoder."""

import pytest
import torch
import transformers

import dpad
from dpad.models import hf
from tests.models.common import spread_out

SIZES = {
    "vocab_size": 67, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 58, "eos_token_id": 59, "pad_token_id": 59,
}  # fmt: skip
MASK_ID = 60
IDS = torch.randint(0, 50, (2, 13), generator=torch.Generator().manual_seed(3))


def everything(ids):
    """A mask by which each position sees all."""
    return torch.ones(ids.shape[0], 1, ids.shape[1], ids.shape[1], dtype=torch.bool)


class Sees:
    """As dllm's base models: Transformers' without the causal mask."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        return super().forward(input_ids, attention_mask=everything(input_ids), **kwargs)


class Qwen3Base(Sees, transformers.Qwen3Model):
    pass


class Qwen2Base(Sees, transformers.Qwen2Model):
    pass


class LlamaBase(Sees, transformers.LlamaModel):
    pass


# As dllm's classes of these names, whose forward is Transformers' own.
class A2DQwen3LMHeadModel(transformers.Qwen3ForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.model = Qwen3Base(config)
        self.post_init()


class A2DQwen2LMHeadModel(transformers.Qwen2ForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.model = Qwen2Base(config)
        self.post_init()


class A2DLlamaLMHeadModel(transformers.LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaBase(config)
        self.post_init()


class MDMGenerationMixin:
    """What the sampler of Open-dLLM is called."""


class Qwen2ForCausalLM(transformers.Qwen2ForCausalLM, MDMGenerationMixin):
    """As Open-dLLM's class of this name: causal, unless it is told otherwise."""

    def forward(self, input_ids=None, attention_mask=None, is_causal=True, **kwargs):
        mask = None if is_causal else everything(input_ids)
        return super().forward(input_ids, attention_mask=mask, **kwargs)


CONFIGS = {
    A2DQwen3LMHeadModel: lambda: transformers.Qwen3Config(**SIZES, head_dim=16),
    A2DQwen2LMHeadModel: lambda: transformers.Qwen2Config(**SIZES),
    A2DLlamaLMHeadModel: lambda: transformers.LlamaConfig(**SIZES),
    Qwen2ForCausalLM: lambda: transformers.Qwen2Config(**SIZES),
}


def build(kind, **fields):
    config = CONFIGS[kind]()
    for name, value in fields.items():
        setattr(config, name, value)
    return spread_out(kind(config).eval())


def logits(model, **options):
    with torch.no_grad():
        return model(input_ids=IDS, **options).logits


def native_of(model):
    """The native class of the same name with the model's weights."""
    config, native_class = model.config, getattr(hf, type(model).__name__)
    theta = getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]
    names = ("rms_norm_eps", "tie_word_embeddings", "head_dim", "block_size")
    fields = {n: getattr(config, n) for n in names if getattr(config, n, None) is not None}
    native = native_class(native_class.config_class(**SIZES, **fields, rope_theta=theta)).eval()
    missing, unknown = native.load_state_dict(model.state_dict(), strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    assert not missing and set(unknown) == tied
    return native


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", list(CONFIGS)[:3])
def test_native_class_and_patched_forward_agree_with_the_stock_one(kind, tied):
    model = build(kind, tie_word_embeddings=tied)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    native, wanted = native_of(model), logits(model)
    assert torch.equal(logits(native), wanted)
    for each in (model, native):
        assert dpad.supports(each).family == "a2d"
        with dpad.patch(each):
            torch.testing.assert_close(logits(each), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fields", [{}, {"block_size": 4}])
@pytest.mark.parametrize("kind", list(CONFIGS)[:3])
def test_stock_and_native_decode_alike_by_blocks_too(kind, fields):
    model = build(kind, tie_word_embeddings=False, **fields)
    native, wanted = native_of(model), logits(model)
    options = {"max_new_tokens": 12, "confidence_threshold": 0.3, "early_stop": False}
    options["mask_token_id"] = MASK_ID
    out = dpad.generate(model, IDS[:, :6], **options)
    assert torch.equal(dpad.generate(native, IDS[:, :6], **options), out)
    with dpad.patch(model):  # its own forward sees everything, whatever it was trained for
        torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-4)
    if fields:
        assert not torch.allclose(logits(native), wanted, atol=0.1)


def test_masks_are_known_by_the_released_vocabulary():
    from dpad.models.adapter import find_adapter

    for kind, mask in ((A2DQwen3LMHeadModel, 151669), (A2DQwen2LMHeadModel, 151665)):
        native = getattr(hf, kind.__name__)
        config = native.config_class(**{**SIZES, "vocab_size": 151936, "num_hidden_layers": 1})
        with torch.device("meta"):
            model = native(config)
        assert find_adapter(model.to_empty(device="cpu")).mask_id == mask
    with pytest.raises(ValueError, match="does not name its mask token"):
        dpad.generate(build(A2DLlamaLMHeadModel), IDS[:1])


def test_open_dcoder_is_no_autoregressive_qwen2():
    model = build(Qwen2ForCausalLM)
    assert dpad.supports(model).family == "open-dcoder"
    assert not dpad.supports(transformers.Qwen2ForCausalLM(CONFIGS[Qwen2ForCausalLM]()))
    causal, wanted = logits(model), logits(model, is_causal=False)
    with dpad.patch(model):
        torch.testing.assert_close(logits(model, is_causal=False), wanted, rtol=1e-4, atol=1e-4)
        assert torch.equal(logits(model), causal)  # the stock forward's, which asks for another
        assert torch.equal(logits(model, is_causal=True), causal)
    assert not torch.allclose(causal, wanted, atol=0.1)


def test_open_dcoder_predicts_the_next_position():
    model, canvas = build(Qwen2ForCausalLM), torch.cat((IDS[:1, :5], IDS[:1, :0]), dim=1)
    canvas = torch.nn.functional.pad(canvas, (0, 4), value=MASK_ID)
    for _ in range(4):
        with torch.no_grad():
            scores = model(input_ids=canvas, is_causal=False).logits[0, 4:8]
        scores[:, MASK_ID] = -torch.inf
        best, token = scores.softmax(-1).max(-1)
        place = int(best.where(canvas[0, 5:] == MASK_ID, -1).argmax())
        canvas[0, 5 + place] = token[place]
    found = dpad.generate(
        model, IDS[:1, :5], max_new_tokens=4, block_length=4, steps=4, mask_token_id=MASK_ID,
        early_stop=False,
    )  # fmt: skip
    assert torch.equal(found, canvas)
