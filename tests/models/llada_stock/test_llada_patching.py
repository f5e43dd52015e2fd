"""`dpad.patch` on a double of LLaDA's released remote code: what changes, what not, undoing."""

import copy

import pytest
import torch
from torch import nn

import dpad
from dpad.models.adapter import UnsupportedModelError
from tests.doubles import remote
from tests.generation.common import META, Doubled, assert_close, logits, pad


def snapshot(model):
    """Identity of everything in every module's ``__dict__``."""
    return {
        name: {key: id(value) for key, value in vars(module).items()}
        for name, module in model.named_modules()
    }


def test_remove_leaves_no_trace(stock, ids):
    before, keys = snapshot(stock), list(stock.state_dict())
    handle = dpad.patch(stock)
    assert set(vars(stock)) - set(before[""]) == {"_dpad_handle", "forward", "generate"}
    assert list(stock.state_dict()) == keys
    assert type(stock).forward is remote.llada(stock_revision(stock)).LLaDAModelLM.forward
    stock.generate([[1, 2, 3]], max_new_tokens=8, block_length=8)
    handle.remove()
    assert snapshot(stock) == before
    handle.remove()
    assert snapshot(stock) == before


def stock_revision(model):
    return 2 if hasattr(model.model, "get_bidirectional_attention_bias") else 1


def test_a_second_instance_is_untouched(stock, ids, weights, revision):
    other = remote.llada_model(META["config"], revision, weights)
    before, want = snapshot(other), logits(other, ids)
    with dpad.patch(stock):
        assert snapshot(other) == before
        assert logits(other, ids).equal(want)
        assert not hasattr(other, "_dpad_handle")


def test_both_revisions_patched_side_by_side(weights):
    ids, mask = pad([[5, 6, 7, 8], [9, 10]], "left")
    one, two = (remote.llada_model(META["config"], n, weights) for n in (1, 2))
    want = [logits(m, ids, attention_mask=mask) for m in (one, two)]
    with dpad.patch(one), dpad.patch(two):
        assert_close(logits(one, ids, attention_mask=mask), want[0])
        assert_close(logits(two, ids, attention_mask=mask), want[1])


def test_patching_twice_names_the_handle(stock):
    with dpad.patch(stock) as handle:
        with pytest.raises(RuntimeError, match=hex(id(handle))):
            dpad.patch(stock)
        assert stock._dpad_handle is handle
        assert handle.active
    assert not handle.active
    dpad.patch(stock).remove()


def test_an_error_inside_the_context_still_removes(stock):
    before = snapshot(stock)
    with pytest.raises(KeyError), dpad.patched(stock):
        raise KeyError
    assert snapshot(stock) == before


def test_changed_weights_are_used_at_once(stock, ids):
    with dpad.patch(stock):
        with torch.no_grad():
            stock.model.transformer.blocks[1].q_proj.weight.mul_(2.0)
        got = logits(stock, ids)
    assert_close(got, logits(stock, ids))


def test_a_replaced_projection_is_called(stock, ids):
    block = stock.model.transformer.blocks[0]
    block.v_proj = Doubled(block.v_proj)
    want = logits(stock, ids)
    with dpad.patch(stock):
        assert_close(logits(stock, ids), want)


def test_hooks_where_modules_are_called_run(stock, ids):
    seen = []
    parts = stock.model.transformer
    for module in (stock, parts.wte, parts.ff_out, parts.blocks[2].k_proj):
        module.register_forward_hook(lambda m, *_: seen.append(type(m).__name__))
    with dpad.patch(stock):
        logits(stock, ids)
    assert sorted(seen) == ["Embedding", "LLaDAModelLM", "Linear", "Linear"]


@pytest.mark.parametrize("kind", ("register_forward_hook", "register_forward_pre_hook"))
def test_hooks_elsewhere_are_refused_or_reported(stock, kind):
    before = snapshot(stock)
    rotary = stock.model.transformer.blocks[1].rotary_emb  # hooks on a whole block do run
    hook = getattr(rotary, kind)(lambda *_: None)
    with pytest.raises(UnsupportedModelError, match=r"model\.transformer\.blocks\.1\.rotary_emb"):
        dpad.patch(stock)
    with dpad.patch(stock, strict=False) as handle:
        assert any("blocks.1" in note for note in handle.notes)
        assert "blocks.1" in repr(handle)
    hook.remove()
    dpad.patch(stock).remove()
    assert set(snapshot(stock)[""]) == set(before[""])


def test_handle_prints_what_runs_where(stock):
    handle = dpad.patch(stock)
    text = repr(handle)
    words = "LLaDAModelLM (llada), active|3 layers, 4/4 heads of 16|float32, cpu|block_attention"
    for word in [*words.split("|"), "defaults", "block_length", "suffix", "no published values"]:
        assert word in text
    handle.remove()
    assert "removed" in repr(handle)


def test_handle_names_the_variant_whose_defaults_hold(stock):
    stock.config._name_or_path = "GSAI-ML/LLaDA-8B-Instruct"
    text = repr(dpad.patch(stock))
    assert "defaults (LLaDA-8B-Instruct)" in text
    assert "window=256" in text


def test_a_deep_copy_of_an_unpatched_model_is_patched_alone(stock, ids):
    twin = copy.deepcopy(stock)
    with dpad.patch(twin):
        assert not hasattr(stock, "_dpad_handle")
        assert_close(logits(twin, ids), logits(stock, ids))


# --- what is refused -----------------------------------------------------------------------------


def test_supports_answers_without_touching(stock):
    before = snapshot(stock)
    answer = dpad.supports(stock)
    assert answer
    assert answer.family == "llada"
    assert snapshot(stock) == before
    assert not dpad.supports(nn.Linear(2, 2))
    assert "Linear" in dpad.supports(nn.Linear(2, 2)).reason


def test_unknown_class_lists_what_was_looked_for():
    with pytest.raises(UnsupportedModelError, match=r"Sequential.*llada: LLaDAModelLM"):
        dpad.patch(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match="str"):
        dpad.patch("GSAI-ML/LLaDA-8B-Instruct")


def test_a_known_name_with_another_tree_is_refused(stock):
    del stock.model.transformer.blocks[1].up_proj
    before = snapshot(stock)
    with pytest.raises(UnsupportedModelError, match="up_proj"):
        dpad.patch(stock)
    assert snapshot(stock) == before


@pytest.mark.parametrize(
    "field, value",
    (("alibi", True), ("attention_layer_norm", True), ("block_group_size", 2), ("rope", False)),
)
def test_configurations_without_a_forward_are_refused_by_name(stock, field, value):
    setattr(stock.model.config, field, value)
    with pytest.raises(UnsupportedModelError, match=field):
        dpad.patch(stock)


def test_a_config_of_another_type_is_refused(stock):
    with pytest.raises(TypeError, match="dict"):
        dpad.patch(stock, {"temperature": 0.0})
