"""BD3-LM: layer norms, constant modulation, gates, a GELU MLP, blocks counted from position 0."""

import json

import pytest
import torch
from torch import nn

import dpad
from dpad.models.adapter import UnsupportedModelError, find_adapter
from dpad.models.hf import AutoModel
from dpad.models.hf.bd3lm import BD3LM, BD3LMBackbone, BD3LMConfig
from tests.generation.common import assert_close, logits
from tests.generation.test_block_decoding import plain_decode
from tests.models.common import spread_out
from tests.models.families import build, tokens

SMALL = {
    "vocab_size": 67,
    "hidden_dim": 48,
    "cond_dim": 20,
    "n_blocks": 2,
    "n_heads": 4,
    "model_length": 128,
}
adaln = pytest.mark.parametrize("adaln", [True, False])


def small(**changes):
    model = spread_out(build("BD3LM", **{**SMALL, **changes}).float())
    with torch.no_grad():
        for number, (name, weight) in enumerate(model.named_parameters()):
            if weight.dim() == 1:
                generator = torch.Generator().manual_seed(number)
                weight.normal_(float("norm" in name), 0.3, generator=generator)
    return model


class StockBackbone(BD3LMBackbone):
    """Of no module of dpad's, as the released one."""


class Stock(BD3LM):
    """Takes what the released forward takes, and sees everything without `sample_mode`."""

    def build(self, config):
        super().build(config)
        self.backbone.__class__ = StockBackbone

    def forward(
        self,
        input_ids=None,
        timesteps=None,
        sample_mode=None,
        store_kv=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        if sample_mode:
            return super().forward(input_ids)
        length = input_ids.shape[1]
        return super().forward(input_ids, torch.ones(1, length, length, dtype=torch.bool))


def test_released_names_and_sizes():
    with torch.device("meta"):
        model = build("BD3LM")
    shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
    wanted = {
        "sampling_eps_min": [],
        "backbone.vocab_embed.embedding": [50258, 768],
        "backbone.sigma_map.mlp.0.weight": [128, 256],
        "backbone.rotary_emb.inv_freq": [32],
        "backbone.blocks.11.norm1.weight": [768],
        "backbone.blocks.11.attn_qkv.weight": [2304, 768],
        "backbone.blocks.11.mlp.0.weight": [3072, 768],
        "backbone.blocks.11.mlp.2.bias": [768],
        "backbone.blocks.11.adaLN_modulation.weight": [4608, 128],
        "backbone.output_layer.norm_final.weight": [768],
        "backbone.output_layer.adaLN_modulation.bias": [1536],
        "backbone.output_layer.linear.bias": [50258],
    }
    assert wanted.items() <= shapes.items()
    assert not {"norm1.bias", "attn_qkv.bias"} & {k.split(".", 3)[-1] for k in shapes}
    view = find_adapter(build("BD3LM", **{**SMALL, "vocab_size": 50258}))
    assert (view.mask_id, view.end_ids, view.block_length) == (50257, (50256,), 4)


@adaln
@pytest.mark.parametrize("length", [1, 4, 21])
def test_patched_forward_is_the_native_one(adaln, length):
    model, ids = small(adaln=adaln), tokens(2, length)
    wanted = logits(model, ids)
    with dpad.patch(model) as handle:
        assert not handle.notes
        assert_close(logits(model, ids), wanted)
        mask = torch.ones_like(ids)
        mask[:, length // 2 + 1 :] = 0
        masked = logits(model, ids, attention_mask=mask)
    real = mask.bool()
    assert_close(masked[real], logits(model, ids, attention_mask=mask)[real])


def test_a_forward_with_sample_mode_is_taken_over():
    config = BD3LMConfig(**SMALL)
    model, ids, time = Stock(config).eval(), tokens(2, 12), torch.zeros(2)
    model.load_state_dict(small().state_dict())
    calls = []
    with torch.no_grad():
        wanted, whole = model(ids, time, sample_mode=True).logits, model(ids, time).logits
        assert not torch.allclose(wanted, whole, atol=0.1)
        with dpad.patch(model) as handle:
            assert not handle.notes
            full = handle.full_forward.logits
            handle.full_forward.logits = lambda **given: calls.append(1) or full(**given)
            assert_close(model(ids, time, sample_mode=True).logits, wanted)
            assert calls == [1]
            assert torch.equal(model(ids, time).logits, whole)
            model(ids, time, sample_mode=True, store_kv=True)
            assert calls == [1]


@adaln
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_blocks_are_decoded_as_by_whole_forwards(adaln, cache):
    model, prompt = small(adaln=adaln), [5, 6, 7, 8, 9]
    assert find_adapter(model).mask_id == 66
    wanted, passes = plain_decode(model, prompt, 19, 4, 0.3, mask_id=66)
    out = dpad.generate(
        model,
        [prompt],
        max_new_tokens=19,
        confidence_threshold=0.3,
        cache=cache,
        early_stop=False,
        return_dict_in_generate=True,
    )
    assert out.sequences[0].tolist() == wanted
    assert out.forwards.tolist() == [passes]


def replace(model):
    layer = model.backbone.blocks[0].adaLN_modulation
    layer.weight = nn.Parameter(layer.weight * 2)


@pytest.mark.parametrize(
    "change",
    [
        replace,
        lambda model: model.backbone.blocks[1].adaLN_modulation.bias.mul_(3),
        lambda model: model.backbone.sigma_map.mlp[0].weight.neg_(),
        lambda model: model.double().float().bfloat16(),
        lambda model: setattr(model.backbone.blocks[0].adaLN_modulation.weight, "data",
                              model.backbone.blocks[0].adaLN_modulation.weight * -1),
    ],
)  # fmt: skip
def test_the_modulation_follows_its_weights(change):
    model, ids = small(), tokens(1, 9)
    with dpad.patch(model):
        before = logits(model, ids)
        with torch.no_grad():
            change(model)
        after = logits(model, ids)
    wanted = logits(model, ids)
    bound = 0.5 if wanted.dtype == torch.bfloat16 else 1e-4
    assert (after - wanted).abs().max() < bound
    assert not torch.equal(after.float(), before)


def test_half_precision():
    model, ids = small().bfloat16(), tokens(2, 21)
    wanted = logits(small(), ids)
    stock = (logits(model, ids).float() - wanted).abs().max()
    with dpad.patch(model):
        assert (logits(model, ids).float() - wanted).abs().max() <= 2 * stock


@pytest.mark.parametrize("path", ["blocks.0.norm1", "blocks.1.mlp", "blocks.1", "blocks.0.mlp.2"])
def test_hooks_run(path):
    model, ids = small(), tokens(1, 9)
    hook = lambda module, args, output: output * 0.5  # noqa: E731
    model.backbone.get_submodule(path).register_forward_hook(hook)
    wanted = logits(model, ids)
    with dpad.patch(model) as handle, torch.no_grad():
        assert_close(handle.full_forward.logits(input_ids=ids), wanted)


def test_hooks_on_what_is_constant_are_refused():
    model = small()
    model.backbone.blocks[0].adaLN_modulation.register_forward_hook(lambda *a: None)
    with pytest.raises(UnsupportedModelError, match=r"backbone\.blocks\.0\.adaLN_modulation"):
        dpad.generate(model, [[5, 6]], max_new_tokens=4, early_stop=False)


@adaln
def test_save_and_load(adaln, tmp_path):
    model = small(adaln=adaln)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["hidden_dim"] == 48 and saved["architectures"] == ["BD3LM"]
    again = AutoModel.from_pretrained(tmp_path)
    assert all(again.state_dict()[k].equal(v) for k, v in model.state_dict().items())
    assert_close(logits(again, tokens(2, 9)), logits(model, tokens(2, 9)))


@pytest.mark.parametrize(
    "field, value",
    [("time_conditioning", True), ("causal", True), ("cross_attn", False), ("n_heads", 5)],
)
def test_other_models_are_refused(field, value):
    with pytest.raises(ValueError, match=field if field != "n_heads" else "num_attention_heads"):
        build("BD3LM", **{**SMALL, field: value})
    if field != "n_heads":
        model = small()
        setattr(model.config, field, value)
        with pytest.raises(UnsupportedModelError, match=f"{field} = {value}"):
            find_adapter(model)


def test_a_model_without_a_part_is_refused():
    model = small()
    del model.backbone.blocks[1].norm2
    with pytest.raises(UnsupportedModelError, match="norm2"):
        dpad.patch(model)
