"""Every family: released names and sizes, loading, and the patched forward beside the native."""

import json

import pytest
import torch
import transformers

import dpad
from dpad.models import hf, llama_tree
from dpad.models.adapter import UnsupportedModelError, find_adapter
from dpad.models.hf import AutoModel
from tests.generation.common import assert_close, logits, pad
from tests.models.families import LEFT_OUT, RELEASED, SHAPE, SMALL, build, small, tokens

every = pytest.mark.parametrize("name", SMALL)


@pytest.mark.parametrize("checkpoint", RELEASED)
def test_released_names_and_sizes(checkpoint):
    name, fields, count, shapes = RELEASED[checkpoint]
    with torch.device("meta"):
        model = build(name, **fields)
    assert sum(p.numel() for p in model.parameters()) == count
    found = {k: list(v.shape) for k, v in model.state_dict().items()}
    assert shapes.items() <= found.items()
    assert ("lm_head.weight" in found) is not bool(model.config.tie_word_embeddings)


@every
@pytest.mark.parametrize("tied", [False, True])
def test_save_and_load_in_shards(name, tied, tmp_path):
    model = small(name, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["architectures"] == [name]
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is type(model) and not again.training
    for key, value in model.config.to_dict().items():
        assert value == getattr(again.config, key) or key in ("_name_or_path", "dtype"), key
    assert all(again.state_dict()[k].equal(v) for k, v in model.state_dict().items())
    assert_close(logits(again, tokens(2, 9)), logits(model, tokens(2, 9)))


@every
def test_tied_checkpoint_with_a_head(name, tmp_path, caplog):
    """Some loaders save the tied head too."""
    from safetensors.torch import load_file, save_file

    model = small(name, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["lm_head.weight"] = state[f"model.{model.embedding}.weight"].clone()
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = AutoModel.from_pretrained(tmp_path)
    assert "lm_head" not in caplog.text
    assert_close(logits(again, tokens(1, 9)), logits(model, tokens(1, 9)))


@every
@pytest.mark.parametrize("length", [1, 7, 8, 21])
@pytest.mark.parametrize("tied", [False, True])
def test_patched_forward_is_the_native_one(name, length, tied):
    model, ids = small(name, tie_word_embeddings=tied), tokens(2, length)
    wanted = logits(model, ids)
    with dpad.patch(model) as handle:
        assert_close(logits(model, ids), wanted)
        assert handle.adapter.output_class == type(model(ids)).__name__
    assert logits(model, ids).equal(wanted)


@every
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_looked_at(name, side):
    model = small(name)
    ids, mask = pad([list(range(20, 33)), [30, 31, 32, 33, 34]], side, 59)
    wanted = logits(model, ids, attention_mask=mask)
    assert wanted.isfinite().all()
    other = ids.masked_fill(mask == 0, 3)
    real = mask.bool()
    assert_close(logits(model, other, attention_mask=mask)[real], wanted[real])
    if side == "right":
        assert_close(logits(model, ids[1:, :5])[0], wanted[1, :5])
    with dpad.patch(model):
        assert_close(logits(model, ids, attention_mask=mask)[real], wanted[real])


@every
def test_positions_move_blocks_too(name):
    model, ids = small(name), tokens(1, 6)
    place = torch.arange(6)[None]
    assert logits(model, ids, position_ids=place).equal(logits(model, ids))
    padded = torch.cat((torch.full((1, 3), 59), ids), dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    place = torch.cat((torch.zeros(1, 3, dtype=torch.int64), place), dim=1)
    beside = logits(model, padded, attention_mask=mask, position_ids=place)[:, 3:]
    assert_close(beside, logits(model, ids))


@every
def test_options_of_the_forward(name):
    model, ids = small(name), tokens(2, 9)
    wanted = logits(model, ids)
    full = torch.ones(9, 9, dtype=torch.bool)[None]
    for mask in (full, full[None]):
        assert logits(model, ids, attention_mask=mask).shape == wanted.shape
    with torch.no_grad():
        embedded = model(inputs_embeds=model.get_input_embeddings()(ids), logits_to_keep=2)
        assert_close(embedded.logits, wanted[:, -2:])
        states = model(ids, output_hidden_states=True, return_dict=False)[1]
    assert len(states) == SHAPE["num_hidden_layers"] + 1
    model(ids).logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(ValueError, match="exactly one"):
        model()


@every
def test_bad_configurations_are_named(name):
    for field, value in {
        "hidden_act": "gelu",
        "use_sliding_window": True,
        "num_key_value_heads": 3,
        "num_hidden_layers": 0,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
    }.items():
        with pytest.raises(ValueError, match=f"{field} = "):
            build(name, **{**SHAPE, **SMALL[name], field: value})


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_a_configuration_leaves_out_is_the_released_class_s(name):
    """A file that does not name them means the same to both."""
    wanted = LEFT_OUT[name]
    if isinstance(wanted, str):
        theirs = getattr(transformers, wanted)()
        fields = ("rms_norm_eps", "max_position_embeddings", "attention_bias", "hidden_act")
        wanted = {field: getattr(theirs, field, False) for field in fields}
        wanted["rope_theta"] = llama_tree.rope_theta(theirs)
    config = getattr(hf, name).config_class()
    assert {field: getattr(config, field) for field in wanted} == wanted


def test_the_score_of_a_single_expert_stays():
    """LLaDA2 divides the weights of several experts by their sum, and that of one by nothing."""
    model = small("LLaDA2MoeModelLM", num_experts_per_tok=1)
    gate, x = model.model.layers[1].mlp.gate, torch.randn(5, SHAPE["hidden_size"])
    weight, expert = gate(x)
    scores = (x @ gate.weight.T).sigmoid()
    assert_close(weight, 2.5 * scores.gather(1, expert))
    wanted = logits(model, tokens(2, 9))
    with dpad.patch(model):
        assert_close(logits(model, tokens(2, 9)), wanted)


def test_what_a_checkpoint_has_to_say_is_asked_for():
    fields = {**SHAPE, "head_dim": 16}
    for missing in ("rope_theta", "rms_norm_eps"):
        given = {n: v for n, v in SMALL["ILLaDAForCausalLM"].items() if n != missing}
        with pytest.raises(ValueError, match=f"{missing} = None"):
            build("ILLaDAForCausalLM", **fields, **given)


@every
def test_what_does_not_fit_is_refused(name):
    model = small(name)
    del model.model.layers[1].post_attention_layernorm
    with pytest.raises(UnsupportedModelError, match="post_attention_layernorm"):
        dpad.patch(model)
    model = small(name)
    model.config.hidden_act = "gelu"
    with pytest.raises(UnsupportedModelError, match="hidden_act = 'gelu'"):
        dpad.patch(model)
    assert not dpad.supports(model)


@every
def test_half_precision(name):
    model, ids = small(name).bfloat16(), tokens(2, 21)
    wanted = logits(small(name), ids)
    stock = (logits(model, ids).float() - wanted).abs().max()
    with dpad.patch(model):
        assert (logits(model, ids).float() - wanted).abs().max() <= 2 * stock


@pytest.mark.parametrize(
    "name, mask, ends, shift, block",
    [
        ("SDARForCausalLM", 151669, (151643, 151645), 0, 4),
        ("Fast_dLLM_QwenForCausalLM", 151665, (151645,), 1, 32),
    ],
)
def test_ids_of_the_released_models(name, mask, ends, shift, block):
    """Where the configuration does not name them; and an id that it names holds."""
    small_ones = {**SHAPE, **SMALL[name], "hidden_size": 8, "head_dim": 2, "intermediate_size": 8}
    for field in ("mask_token_id", "eos_token_id", "block_size", "bd_size"):
        small_ones.pop(field, None)
    model = build(name, **{**small_ones, "vocab_size": 151936, "mask_token_id": None})
    view = find_adapter(model)
    assert (view.mask_id, view.end_ids, view.shift) == (mask, ends, shift)
    assert (view.attention, view.block_length) == ("block-causal", block)
    model.config.mask_token_id = 7
    assert find_adapter(model).mask_id == 7
    assert find_adapter(small(name)).mask_id == 60


@every
def test_garbage_rotary_buffers_are_said_and_not_used(name):
    model, ids = small(name), tokens(1, 9)
    wanted = logits(model, ids)
    rotary = model.model.rotary_emb = torch.nn.Module()
    rotary.register_buffer("inv_freq", torch.full((4,), 7.0), persistent=False)
    with dpad.patch(model) as handle:
        assert "uninitialised" in handle.notes[0] and handle.notes[0] in repr(handle)
        assert_close(logits(model, ids), wanted)
