"""What is accepted, and what is refused before any work."""

import pytest
import torch

import dpad
from dpad import ops
from dpad.decode import device as devices
from dpad.decode.canvas import Canvas
from dpad.decode.decoder import NaNLogitsError
from tests.generation.common import EOS_ID, MASK_ID, pad

SHORT = {"max_new_tokens": 12, "block_length": 8, "seed": 1}


def test_forms_of_input_agree(llada, prompts):
    prompt = prompts[0]
    ids = torch.tensor([prompt])
    expected = dpad.generate(llada, ids, **SHORT)
    mapping = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for arguments, options in (
        ((prompt,), {}),
        (([prompt],), {}),
        ((ids[0],), {}),
        ((ids.int(),), {}),
        ((mapping,), {}),
        ((), {"input_ids": ids}),
        ((), mapping),
    ):
        assert torch.equal(dpad.generate(llada, *arguments, **options, **SHORT), expected)


def test_empty_prompt_works(llada):
    out = dpad.generate(llada, torch.zeros(2, 0, dtype=torch.int64), **SHORT)
    assert out.shape == (2, 12)
    assert (out != MASK_ID).all()


@pytest.mark.parametrize("new, block", [(12, 8), (7, 32), (1, 1), (33, 32)])
def test_last_block_may_be_shorter(llada, prompts, new, block):
    out = dpad.generate(llada, [prompts[0]], max_new_tokens=new, block_length=block, trace=True)
    assert out.sequences.shape == (1, len(prompts[0]) + new)
    assert (out.sequences != MASK_ID).all()
    assert len(out.kept_suffix[0]) == -(-new // block)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"max_new_tokens": 250}, ["13", "250", "263", "256"]),
        ({"attention_mask": torch.tensor([[0] * 13])}, ["row 0", "all padding"]),
        ({"attention_mask": torch.tensor([[1, 0] + [1] * 11])}, ["row 0", "hole"]),
        ({"attention_mask": torch.ones(1, 4)}, ["[1, 4]", "[1, 13]"]),
        ({"attention_mask": torch.full((1, 13), 2)}, ["0 and 1"]),
        ({"steps": 1}, ["steps = 1", "2 blocks"]),
        ({"row_keys": [1, 2]}, ["row_keys", "2 keys", "1 rows"]),
        ({"row_keys": [2**63]}, ["row_keys", str(2**63)]),
        ({"eos_token_id": 5000}, ["eos_token_id = 5000", "320"]),
        ({"mask_token_id": -1}, ["mask_token_id = -1"]),
        ({"eos_token_id": MASK_ID}, ["eos_token_id"]),
        ({"kept_suffix": [[3], []]}, ["row 0, block 0", "[21, 25)"]),
        ({"kept_suffix": [[23, 22], []]}, ["ascending"]),
        ({"kept_suffix": [[]]}, ["1 blocks", "needs 2"]),
        ({"kept_suffix": [[[22], []], [[22], []]]}, ["2 rows", "1"]),
        ({"temperature": -1.0}, ["temperature = -1.0"]),
        ({"confidence_threshold": float("nan")}, ["confidence_threshold"]),
        ({"threshold": 0.9, "factor": 1.0}, ["confidence_threshold", "factor"]),
        ({"gen_length": 8, "max_new_tokens": 9}, ["gen_length", "max_new_tokens"]),
        ({"cache": "both"}, ["cache = 'both'"]),
        ({"compatible": "gpt"}, ["compatible = 'gpt'"]),
        ({"suffix": 3}, ["suffix = 3"]),
        ({"block_length": 0}, ["block_length = 0"]),
        ({"micro_batch": 1.5}, ["micro_batch = 1.5"]),
    ],
)
def test_bad_values_are_named(llada, prompts, options, words):
    with pytest.raises(ValueError) as error:
        dpad.generate(llada, [prompts[0]], **{**SHORT, **options})
    for word in words:
        assert word in str(error.value)


def test_bad_prompts_are_named(llada):
    with pytest.raises(ValueError, match=f"row 1 holds the mask id {MASK_ID}"):
        dpad.generate(llada, [[1, 2], [MASK_ID, 3]], **SHORT)
    with pytest.raises(ValueError, match="row 0 holds id 320"):
        dpad.generate(llada, [[1, 320]], **SHORT)
    with pytest.raises(ValueError, match="no rows"):
        dpad.generate(llada, torch.zeros(0, 3, dtype=torch.int64), **SHORT)
    with pytest.raises(ValueError, match="dtype"):
        dpad.generate(llada, torch.zeros(1, 3), **SHORT)
    with pytest.raises(ValueError, match="once"):
        dpad.generate(llada, **SHORT)
    with pytest.raises(ValueError, match="once"):
        dpad.generate(llada, [[1]], input_ids=[[1]], **SHORT)


def test_unknown_options_and_types(llada, prompts):
    with pytest.raises(TypeError, match="'treshold' = 0.9"):
        dpad.generate(llada, [prompts[0]], treshold=0.9)
    with pytest.raises(TypeError, match="expected a DPadGenerationConfig"):
        dpad.generate(llada, [prompts[0]], generation_config={"temperature": 0})
    with pytest.raises(TypeError, match="torch.nn.Module"):
        dpad.generate("LLaDA", [prompts[0]])


def test_no_known_mask_id(llada, prompts):
    llada.config.mask_token_id = None
    with pytest.raises(ValueError, match="pass mask_token_id="):
        dpad.generate(llada, [prompts[0]], **SHORT)
    assert dpad.generate(llada, [prompts[0]], mask_id=MASK_ID, **SHORT).shape[1] == 25


def test_a_status_of_invalid_indices_raises(llada, prompts, monkeypatch):
    """Only a device that cannot refuse them beforehand writes this status."""
    read = Canvas.read_status

    def written(self):
        status, *rest = read(self)
        return [[ops.STATUS["invalid"]] * len(status), *rest]

    monkeypatch.setattr(Canvas, "read_status", written)
    with pytest.raises(RuntimeError, match="row 0, block 0, forward 0: .* out of range"):
        dpad.generate(llada, [prompts[0]], **SHORT)


def test_nan_logits_raise_and_leave_the_model_alone(llada, prompts):
    before = {k: v.clone() for k, v in llada.state_dict().items()}
    with torch.no_grad():
        llada.model.transformer.ff_out.weight[7].fill_(float("nan"))
    with dpad.patch(llada), pytest.raises(NaNLogitsError, match="row 0, block 0, forward 0"):
        llada.generate([prompts[0]], **SHORT)
    with torch.no_grad():
        llada.model.transformer.ff_out.weight.copy_(before["model.transformer.ff_out.weight"])
    assert all(torch.equal(v, before[k]) for k, v in llada.state_dict().items())


def test_a_model_that_predicts_the_mask_does_not_hang(llada, prompts):
    with torch.no_grad():
        llada.model.transformer.ff_out.weight[MASK_ID] = (
            llada.model.transformer.ff_out.weight[:300].sum(0) * 50
        )
    out = dpad.generate(llada, [prompts[0]], threshold=0.5, **SHORT)
    assert (out != MASK_ID).all()


def test_a_capacity_that_does_not_fit_names_the_bytes(llada, prompts, monkeypatch):
    monkeypatch.setattr(devices, "free_bytes", lambda device: 1000)
    wanted = 2 * 3 * 4 * 25 * 16 * 4  # K and V, layers, heads, slots, head_dim, float32
    with pytest.raises(MemoryError, match=f"{wanted:,} bytes"):
        dpad.generate(llada, [prompts[0]], **SHORT)


def test_what_torch_keeps_for_later_is_free(monkeypatch):
    figures = {"memory_reserved": 50, "memory_allocated": 30, "mem_get_info": (7, 99)}
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert devices.free_bytes(torch.device("cuda", 0)) == 7 + 50 - 30


def test_padding_side_and_columns(llada, prompts):
    for side in ("left", "right"):
        ids, mask = pad(prompts, side)
        out = dpad.generate(llada, ids, attention_mask=mask, early_stop=False, **SHORT)
        assert torch.equal(out[:, : ids.shape[1]], ids)
        assert out.shape[1] == ids.shape[1] + 12
        assert (out[:, ids.shape[1] :] != MASK_ID).all()
    assert llada.config.pad_token_id == EOS_ID


def test_a_refused_call_does_not_move_the_generator(llada, prompts):
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="one row"):
        dpad.generate(llada, prompts[:1] * 2, streamer=object(), max_new_tokens=8)
    assert torch.equal(torch.get_rng_state(), state)
