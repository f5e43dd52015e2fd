"""What Transformers, PEFT and pipelines ask a native class, patched or not."""

import pytest
import torch
import transformers

import dpad


def test_forgetting_to_patch_says_so(model, ids):
    assert not hasattr(model, "generate")
    with pytest.raises(AttributeError, match=r"dpad\.patch\(model\) gives it one, or call dpad\."):
        model.generate(ids)
    with dpad.patch(model):
        assert model.generate(ids, max_new_tokens=4).shape[1] == ids.shape[1] + 4
    assert not hasattr(model, "generate")


def test_only_a_patched_model_can_generate(model, ids, tmp_path):
    assert not model.can_generate() and not hasattr(model, "generation_config")
    with dpad.patch(model):
        assert model.can_generate()
        assert model.generation_config.eos_token_id == model.config.eos_token_id
        model.save_pretrained(tmp_path)
    assert not model.can_generate()
    assert not (tmp_path / "generation_config.json").exists()
    other = type(model).from_pretrained(tmp_path)
    assert not other.can_generate()


def test_a_pipeline_answers():
    """Text generation, of one prompt and of a batch, as the patched model does by itself."""
    model, tokenizer = dpad.demo.load()
    prompts = [p.prompt for p in dpad.demo.problems(2, seed=0)]
    greedy = {"max_new_tokens": 64, "do_sample": False, "return_full_text": False}
    with dpad.patch(model):
        pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
        found = [answer[0]["generated_text"] for answer in pipe(prompts, batch_size=2, **greedy)]
        assert pipe(prompts[0], **greedy)[0]["generated_text"] == found[0]
        warm = pipe(prompts[0], max_new_tokens=64, do_sample=True, temperature=500.0)
    for prompt, text in zip(prompts, found, strict=True):
        assert text == dpad.demo.solve(prompt)
    assert found[0] not in warm[0]["generated_text"]


def test_a_forward_takes_the_released_arguments(model, ids):
    with torch.no_grad():
        plain = model(ids).logits
        given = {"attention_mask": None, "labels": None, "use_cache": False, "return_dict": True}
        found = model(input_ids=ids, output_attentions=False, past_key_values=None, **given)
    assert torch.equal(found.logits, plain)
    for name, value in (("labels", ids), ("use_cache", True), ("output_attentions", True)):
        with pytest.raises(ValueError, match=f"{name} is not supported by {type(model).__name__}"):
            model(ids, **{name: value})


@pytest.mark.parametrize("patched", [False, True])
def test_options_are_read_from_the_configuration(model, ids, patched):
    handle = dpad.patch(model) if patched else None
    with torch.no_grad():
        plain = model(ids)
        assert plain.hidden_states is None
        model.config.output_hidden_states = True
        asked, refused = model(ids), model(ids, output_hidden_states=False)
        assert len(asked.hidden_states) == 4  # of three layers
        assert torch.allclose(asked.logits, plain.logits, atol=1e-4)
        assert refused.hidden_states is None
        model.config.output_hidden_states = False
        assert model(ids).hidden_states is None
        model.config.return_dict = False
        assert isinstance(model(ids), tuple)
        model.config.return_dict = True
    if handle is not None:
        handle.remove()
