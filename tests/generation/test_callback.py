"""The step callback: what it is given, what it may change, and what is refused."""

import pytest
import torch

import dpad
from tests.generation.common import EOS_ID, MASK_ID, pad

OPTIONS = {"max_new_tokens": 20, "block_length": 8, "threshold": 0.6, "seed": 2}
NAMES = ("block", "confidence", "transfer_index", "kept_suffix")


def run(model, prompts, callback, inputs=None, outputs=None, **options):
    ids, mask = pad(prompts, "left")
    return dpad.generate(
        model,
        ids,
        attention_mask=mask,
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=inputs,
        callback_on_step_end_tensor_outputs=outputs,
        return_dict_in_generate=True,
        trace=True,
        **{**OPTIONS, **options},
    )


@pytest.mark.parametrize("batching", [{}, {"micro_batch": 2}, {"batch_invariant": True}])
def test_every_step_of_every_row_is_seen(llada, prompts, batching):
    seen, numbers = {}, []

    def look(model, step, timestep, tensors):
        assert model is llada
        numbers.append(step)
        assert set(tensors) == {"row", *NAMES}
        assert len(timestep) == tensors["row"].shape[0]
        for i, row in enumerate(tensors["row"].tolist()):
            seen.setdefault(row, []).append(
                (timestep[i], {n: tensors[n][i].clone() for n in NAMES})
            )
        for value in tensors.values():
            assert not value.is_inference()
            value.zero_()  # a copy: changes nothing

    plain = run(llada, prompts, None, early_stop=False, **batching)
    out = run(llada, prompts, look, NAMES, early_stop=False, **batching)
    assert torch.equal(out.sequences, plain.sequences)
    assert numbers == list(range(len(numbers)))
    events = {}
    for event in out.trace.events:
        events.setdefault(event["row"], []).append(event)
    for row, prompt in enumerate(prompts):
        assert len(seen[row]) == int(out.forwards[row])
        for (timestep, tensors), event in zip(seen[row], events[row], strict=True):
            start = len(prompt) + 8 * event["block"]
            assert (timestep == 0) == (event["kept"] is not None)
            where = tensors["transfer_index"].nonzero()[:, 0]
            assert (where + start).tolist() == event["positions"]
            assert tensors["block"][where].tolist() == event["tokens"]
            assert tensors["confidence"][where].tolist() == event["confidence"]
            kept = tensors["kept_suffix"]
            assert kept[kept >= 0].tolist() == out.kept_suffix[row][event["block"]].tolist()


def test_the_block_alone_is_given_by_default(llada, prompts):
    def look(model, step, timestep, tensors):
        assert set(tensors) == {"row", "block"}
        assert tensors["block"].shape in ((1, 8), (1, 4))
        return tensors  # as it was given: allowed

    plain = run(llada, prompts[:1], None)
    assert torch.equal(run(llada, prompts[:1], look).sequences, plain.sequences)


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_it_may_write_the_block(llada, prompts, cache):
    """Fills every open position of the rows of even number with one id."""

    def fill(model, step, timestep, tensors):
        block = tensors["block"]
        for i, row in enumerate(tensors["row"].tolist()):
            if row % 2 == 0:
                block[i][block[i] == MASK_ID] = 7
        return {"block": block}

    plain = run(llada, prompts, None, early_stop=False, cache=cache)
    out = run(llada, prompts, fill, outputs="block", early_stop=False, cache=cache)
    answers = out.sequences[:, -20:]
    assert out.forwards.tolist()[::2] == [3, 3, 3]
    assert (answers[::2] == 7).any() and (answers != MASK_ID).all()
    assert torch.equal(answers[1::2], plain.sequences[1::2, -20:])
    filled = [e for e in out.trace.events if e["row"] == 0]
    assert sorted(p for e in filled for p in e["positions"]) == [13 + i for i in range(20)]


def test_masks_that_are_put_back_are_decided_again(llada, prompts):
    plain = run(llada, prompts[:1], None, early_stop=False)
    done = []

    def again(model, step, timestep, tensors):
        if not done:
            done.append(step)
            return {"block": torch.full_like(tensors["block"], MASK_ID)}

    out = run(llada, prompts[:1], again, outputs=["block"], early_stop=False)
    assert torch.equal(out.sequences, plain.sequences)
    assert int(out.forwards[0]) == int(plain.forwards[0]) + 1


def test_an_end_that_is_written_ends_the_row(llada, prompts):
    def end(model, step, timestep, tensors):
        block = tensors["block"]
        block[block >= 0] = EOS_ID
        return {"block": block}

    out = run(llada, prompts, end, outputs=["block"])
    assert out.finish_reason == ["stop"] * 5 and out.forwards.tolist() == [1] * 5


def test_a_callback_that_never_lets_a_block_end_is_stopped(llada, prompts):
    def forever(model, step, timestep, tensors):
        return {"block": torch.full_like(tensors["block"], MASK_ID)}

    with pytest.raises(RuntimeError, match="row 0, block 0: the step callback.*64 steps"):
        run(llada, prompts[:1], forever, outputs=["block"])


def test_what_it_raises_reaches_the_caller_and_nothing_is_lost(llada, prompts):
    before = {k: v.clone() for k, v in llada.state_dict().items()}
    expected = dpad.generate(llada, [prompts[0]], **OPTIONS)

    def fail(model, step, timestep, tensors):
        if step == 1:
            raise KeyError("mine")

    with dpad.patch(llada) as handle:
        entries = dict(llada.__dict__)
        with pytest.raises(KeyError, match="mine"):
            llada.generate([prompts[0]], callback_on_step_end=fail, **OPTIONS)
        assert llada.__dict__ == entries and len(handle._workspaces.free) == 1
        assert torch.equal(llada.generate([prompts[0]], **OPTIONS), expected)
    assert all(torch.equal(v, before[k]) for k, v in llada.state_dict().items())


@pytest.mark.parametrize(
    "answer, error, words",
    [
        (lambda t: [1], TypeError, "returned a list"),
        (lambda t: {"latents": 1}, ValueError, "'latents', which it was not given"),
        (lambda t: {"block": t["block"][:, :3]}, ValueError, r"block = \[1, 3\].*\[1, 8\]"),
        (lambda t: {"block": t["block"].float() + 1}, ValueError, "float32: expected int64"),
        (lambda t: {"block": t["block"] * 0 - 1}, ValueError, "wrote id -1: the vocabulary has"),
        (lambda t: {"block": t["block"] * 0 + 320}, ValueError, "wrote id 320"),
        (lambda t: {"confidence": t["confidence"] + 1}, ValueError, "changed 'confidence'"),
        (lambda t: {"row": t["row"] + 1}, ValueError, "changed 'row': it may change block"),
    ],
)
def test_bad_answers_are_named(llada, prompts, answer, error, words):
    callback = lambda model, step, timestep, tensors: answer(tensors)  # noqa: E731
    with pytest.raises(error, match=words):
        run(llada, prompts[:1], callback, NAMES, ["block"])


def test_it_may_change_nothing_by_default(llada, prompts):
    callback = lambda m, step, t, tensors: {"block": tensors["block"] * 0}  # noqa: E731
    with pytest.raises(ValueError, match="changed 'block': it may change nothing"):
        run(llada, prompts[:1], callback)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"callback_on_step_end": 3}, TypeError, "callback_on_step_end is a int"),
        (
            {"callback_on_step_end_tensor_inputs": ["latents"], "callback_on_step_end": print},
            ValueError,
            "tensor_inputs holds 'latents'",
        ),
        (
            {"callback_on_step_end_tensor_outputs": ["confidence"], "callback_on_step_end": print},
            ValueError,
            "tensor_outputs holds 'confidence'",
        ),
        ({"callback_on_step_end_tensor_inputs": ["block"]}, ValueError, "without"),
    ],
)
def test_bad_arguments_are_named_before_any_work(llada, prompts, options, error, words):
    state = torch.get_rng_state()
    with pytest.raises(error, match=words):
        dpad.generate(llada, [prompts[0]], max_new_tokens=8, **options)
    assert torch.equal(torch.get_rng_state(), state)
