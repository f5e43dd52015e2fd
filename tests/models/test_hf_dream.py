"""The native Dream class: released names and sizes, loading, masks, and the shift."""

import json

import pytest
import torch

import dpad
from dpad.models.hf import AutoModel
from dpad.models.hf.dream import DreamConfig, DreamModel

SMALL = {
    "vocab_size": 67,
    "hidden_size": 56,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 7,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "mask_token_id": 60,
    "bos_token_id": 58,
    "eos_token_id": 59,
    "pad_token_id": 59,
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DreamModel(DreamConfig(**SMALL)).float().eval()


def test_published_sizes_and_names():
    with torch.device("meta"):
        published = DreamModel(DreamConfig())
    shapes = {k: list(v.shape) for k, v in published.state_dict().items()}
    assert sum(p.numel() for p in published.parameters()) == 7_615_616_512
    assert len(shapes) == 2 + 1 + 28 * 12
    assert shapes["lm_head.weight"] == shapes["model.embed_tokens.weight"] == [152064, 3584]
    layer = "model.layers.27."
    assert shapes[layer + "self_attn.q_proj.bias"] == [3584]
    assert shapes[layer + "self_attn.k_proj.weight"] == [512, 3584]
    assert shapes[layer + "mlp.down_proj.weight"] == [3584, 18944]
    assert layer + "self_attn.o_proj.bias" not in shapes


def test_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["DreamModel"]
    loaded = AutoModel.from_pretrained(tmp_path)
    ids = torch.randint(0, 50, (2, 9))
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_padding_is_not_looked_at(model):
    prompt = torch.randint(0, 50, (1, 6))
    padded = torch.cat((torch.full((1, 3), 59), prompt), dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    with torch.no_grad():
        alone = model(prompt, "full").logits
        beside = model(padded, mask).logits[:, 3:]
        four = model(padded, mask.bool()[:, None, None]).logits[:, 3:]
    assert (alone - beside).abs().max() < 1e-4
    assert torch.equal(beside, four)


def test_bad_input_is_named(model):
    with pytest.raises(ValueError, match="exactly one"):
        model()
    with pytest.raises(ValueError, match="'half'"):
        model(torch.zeros(1, 2, dtype=torch.int64), "half")
    with pytest.raises(ValueError, match="hidden_size = 57"):
        DreamConfig(**{**SMALL, "hidden_size": 57})
    with pytest.raises(ValueError, match="use_sliding_window"):
        DreamConfig(use_sliding_window=True)
    with pytest.raises(ValueError, match="row 0 is empty"):
        dpad.generate(model, torch.zeros(1, 0, dtype=torch.int64), max_new_tokens=4)


def test_patched_forward_and_decoding(model):
    ids = torch.randint(0, 50, (2, 9))
    with torch.no_grad():
        stock = model(ids).logits
        with dpad.patch(model):
            ours, last = model(ids, "full").logits, model(ids, num_logits_to_keep=1).logits
    assert (ours - stock).abs().max() <= 1e-5 * stock.abs().max()
    assert last.shape == (2, 1, 67)
    assert (last - stock[:, -1:]).abs().max() <= 1e-5 * stock.abs().max()


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_shift_joins_the_predecessor(model, cache):
    """One pass per block: every cache gives what the plain shifted decoder gives."""
    prompt = torch.randint(0, 50, (1, 7))
    canvas = torch.cat((prompt, torch.full((1, 12), 60)), dim=1)
    for start in (7, 11, 15):
        with torch.no_grad():
            logits = model(canvas).logits[0, start - 1 : start + 3].clone()
        logits[:, 60] = -torch.inf
        canvas[0, start : start + 4] = logits.argmax(-1)
    out = dpad.generate(
        model,
        prompt,
        max_new_tokens=12,
        block_length=4,
        threshold=0.0,
        suffix=dpad.Suffix("all"),
        cache=cache,
        early_stop=False,
        compatible="llada",
    )
    assert torch.equal(out, canvas)


def test_garbage_rotary_buffers_are_reported(model):
    model.model.rotary_emb = torch.nn.Module()
    model.model.rotary_emb.register_buffer("inv_freq", torch.full((4,), 7.0), persistent=False)
    assert "reset_rope_parameters" in repr(dpad.patch(model))
