"""`dpad.loglikelihood` of block-causal models: each block given the clean ones before it, against
the mean over all orders within a block, taken with the models' own forward.
"""

from itertools import permutations

import pytest
import torch

import dpad
from dpad.decode.decoder import NaNLogitsError
from tests.generation.common import EOS_ID
from tests.generation.test_block_decoding import KINDS, MASK_ID, load, prompt_of
from tests.models.test_bd3lm import small as bd3lm

# float32: many blocks in one pass on cached K/V against the model's forward of one canvas.
CLOSE = {"rtol": 1e-5, "atol": 3e-5}
# Answers within a block, over several, from a block's first position on, and to its last one.
PAIRS = [
    ([5, 17, 250, 4], [9]),
    ([3], [44, 2, 7, 8, 9, 1]),
    ([8, 8, 120, 77, 31, 6], [13, 13, 200, 9, 8, 7, 6]),
    ([19, 280, 3, 4], [7, 61, 5, 102]),
    (prompt_of(21), [3, 3, 3]),
]


def with_block(kind, block):
    model = load(kind)
    setattr(model.config, "block_size" if kind == "sdar" else "bd_size", block)
    return model


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def log_probability(model, ids, prompt, row, token, guidance, mask_id, barred):
    rows = [ids, [mask_id] * prompt + ids[prompt:]]
    with torch.no_grad():
        given, without = (model(torch.tensor([r])).logits[0, row].double() for r in rows)
    logits = without + (1 + guidance) * (given - without) if guidance else given
    logits[barred] = -torch.inf
    return float(logits.log_softmax(-1)[token])


def over_all_orders(model, prompt, answer, block, guidance=0.0, mask_id=MASK_ID, barred=()):
    """Sum over the blocks of the mean over all orders of revealing the answer's tokens there."""
    text, count, total = prompt + answer, len(prompt), 0.0
    shift = "Fast" in type(model).__name__
    for start in range(count // block * block, len(text), block):
        places = list(range(max(start, count), min(start + block, len(text))))
        if shift and places[0] == start:
            how = (guidance, mask_id, list(barred))
            total += log_probability(model, text[:start], count, start - 1, text[start], *how)
            del places[0]
        orders = list(permutations(places))
        for order in orders:
            canvas = text[: start + block] + [mask_id] * (start + block - len(text))
            for place in places:
                canvas[place] = mask_id
            for place in order:
                found = (canvas, count, place - shift, text[place], guidance, mask_id, list(barred))
                total += log_probability(model, *found) / len(orders)
                canvas[place] = text[place]
    return total


@pytest.mark.parametrize("guidance", (0.0, 1.5))
@pytest.mark.parametrize("block", (1, 4))
def test_short_blocks_are_exact(kind, block, guidance):
    model = with_block(kind, block)
    want = [over_all_orders(model, *pair, block, guidance) for pair in PAIRS]
    want = torch.tensor(want, dtype=torch.float64)
    for micro_batch in (1, 7, None):
        options = {"cfg_scale": guidance, "micro_batch": micro_batch, "mask_token_id": MASK_ID}
        found = dpad.loglikelihood(model, PAIRS, samples=16, **options)
        torch.testing.assert_close(found.value, want, **CLOSE)
        assert found.standard_error.tolist() == [0.0] * 5
    if block == 1:
        lengths = [len(answer) for _, answer in PAIRS]
        assert found.canvases.tolist() == (lengths if kind == "sdar" else [0] * 5)
    else:
        masks = [1, 14, 19, 15, 7] if kind == "sdar" else [0, 10, 10, 7, 7]
        assert found.canvases.tolist() == masks


@pytest.mark.parametrize("adaln", (True, False))
@pytest.mark.parametrize("block", (1, 4))
@pytest.mark.parametrize("guidance", (0.0, 1.5))
def test_bd3lm_whose_mask_is_no_token(adaln, block, guidance):
    """The logit of the mask was never trained (MDLM's parametrization): it counts for nothing."""
    model, mask_id = bd3lm(adaln=adaln, block_size=block), 66
    pairs = [([5, 17, 50, 4], [9]), ([3], [44, 2, 7, 8, 9, 1]), ([8, 8, 20], [61, 3, 9])]
    want = [over_all_orders(model, *p, block, guidance, mask_id, [mask_id]) for p in pairs]
    want = torch.tensor(want, dtype=torch.float64)
    for likely in (0.0, 9.0):
        model.backbone.output_layer.linear.bias.data[mask_id] += likely
        found = dpad.loglikelihood(model, pairs, samples=16, cfg_scale=guidance)
        torch.testing.assert_close(found.value, want, **CLOSE)
        assert found.standard_error.tolist() == [0.0] * 3


def test_one_block_over_everything_is_full_attention():
    pairs, options = [(prompt_of(12), prompt_of(4, seed=1))], {"mask_token_id": MASK_ID}
    model = with_block("sdar", 16)
    with dpad.patch(model) as handle:
        by_blocks = dpad.loglikelihood(model, pairs, samples=16, **options)
        handle.adapter.attention = "full"
        at_once = dpad.loglikelihood(model, pairs, samples=16, **options)
    torch.testing.assert_close(by_blocks.value, at_once.value, **CLOSE)
    assert by_blocks.canvases.tolist() == at_once.canvases.tolist() == [15]


def test_mean_and_standard_error_are_right(kind):
    model, draws = with_block(kind, 4), 300
    pair, options = (prompt_of(6), prompt_of(9, seed=2)), {"mask_token_id": MASK_ID}
    exact = dpad.loglikelihood(model, [pair], samples=16, **options).value
    keys = {"row_keys": range(draws), "micro_batch": 500}
    found = dpad.loglikelihood(model, [pair] * draws, samples=2, **keys, **options)
    variance = found.value.var()
    assert abs(found.value.mean() - exact) < 4 * (variance / draws).sqrt()
    # A variance from 300 draws is uncertain by 8 %, the mean of the estimates by less than 15 %.
    assert found.standard_error.square().mean() == pytest.approx(float(variance), rel=0.4)


@pytest.mark.parametrize("micro_batch", (1, 5, None))
def test_values_do_not_depend_on_the_batch(kind, micro_batch):
    model = with_block(kind, 8)
    pairs = [(prompt_of(n), prompt_of(n + 3, seed=3)) for n in (2, 8, 17, 30)]
    options = {"samples": 6, "seed": -5, "mask_token_id": MASK_ID}
    want = dpad.loglikelihood(model, pairs, micro_batch=1, **options)
    turned = dpad.loglikelihood(model, pairs[::-1], micro_batch=micro_batch, **options)
    torch.testing.assert_close(turned.value.flip(0), want.value, **CLOSE)
    torch.testing.assert_close(
        turned.standard_error.flip(0), want.standard_error, rtol=1e-4, atol=1e-4
    )
    assert torch.equal(turned.canvases.flip(0), want.canvases)
    if micro_batch == 1:
        assert torch.equal(turned.value.flip(0), want.value)


def test_common_keys_give_choices_the_same_masks():
    model, seen = with_block("sdar", 8), []
    model.get_input_embeddings().register_forward_hook(lambda m, args, out: seen.append(args[0]))
    answers = [prompt_of(12, seed=n) for n in (4, 5)]
    for answer in answers:
        dpad.loglikelihood(
            model, [(prompt_of(4), answer)], samples=6, row_keys=[9], mask_token_id=MASK_ID
        )
    half = len(seen) // 2
    for one, other in zip(seen[:half], seen[half:], strict=True):
        assert torch.equal(one == MASK_ID, other == MASK_ID)
    assert any((one != other).any() for one, other in zip(seen[:half], seen[half:], strict=True))


def test_clean_blocks_are_computed_once():
    model, rows = with_block("sdar", 4), []
    model.get_input_embeddings().register_forward_hook(
        lambda m, args, out: rows.append(args[0].shape[0])
    )
    pair = prompt_of(41), prompt_of(3, seed=6)  # one block, all of whose masks are seven
    dpad.loglikelihood(model, [pair], samples=8, micro_batch=2, mask_token_id=MASK_ID)
    assert rows == [40, 8, 8, 8, 4]


def test_patched_and_not_agree_and_the_bar_counts(kind, monkeypatch):
    from dpad.generation import block_likelihood

    bars = []

    class Bar:
        def __init__(self, total, **_):
            bars.append([total, 0])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self, count):
            bars[-1][1] += count

    monkeypatch.setattr(block_likelihood, "tqdm", Bar)
    model = with_block(kind, 4)
    plain = dpad.loglikelihood(model, PAIRS, samples=16, mask_token_id=MASK_ID)
    with dpad.patch(model):
        patched = dpad.loglikelihood(model, PAIRS, samples=16, mask_token_id=MASK_ID)
    torch.testing.assert_close(patched.value, plain.value, **CLOSE)
    assert bars == [[int(plain.canvases.sum())] * 2] * 2


def test_what_is_refused():
    model = with_block("fastdllm_v2", 4)
    with pytest.raises(ValueError, match="pairs\\[0\\] has an empty prompt"):
        dpad.loglikelihood(model, [([], [EOS_ID])], mask_token_id=MASK_ID)
    assert dpad.loglikelihood(model, [], mask_token_id=MASK_ID).value.tolist() == []
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(NaNLogitsError, match="pairs\\[0\\]"):
        dpad.loglikelihood(model, PAIRS, samples=2, mask_token_id=MASK_ID)
