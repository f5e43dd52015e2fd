"""`dpad.loglikelihood` against the mean over all orders, taken with the models' own forward."""

from itertools import permutations

import pytest
import torch

import dpad
from dpad.decode.decoder import NaNLogitsError
from tests.doubles import remote
from tests.generation.common import MASK_ID, META

pytestmark = pytest.mark.once

# float32: one pass of many canvases against the model's forward of one canvas.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
PAIRS = [
    ([5, 17, 250, 4], [9]),
    ([3], [44, 2]),
    ([8, 8, 120, 77, 31, 6], [13, 13, 200]),
    ([19, 280], [7, 61, 5, 102]),
]
LONG = [
    ([5, 17, 250], list(range(40, 52))),
    ([9], [12, 260, 33, 4, 4, 18, 90, 2, 201]),
    ([61, 3, 3, 99, 105], list(range(100, 120))),
]


@pytest.fixture
def stock(weights):
    return remote.llada_model(META["config"], state_dict=weights)


@pytest.fixture(params=["llada", "dream", "stock"])
def model(request):
    return request.getfixturevalue(request.param)


def log_probability(model, prompt, answer, hidden, at, guidance):
    """Of answer[at], with the `hidden` positions of the answer masked: the stock forward's."""
    mask_id = model.config.mask_token_id
    text = [mask_id if i in hidden else t for i, t in enumerate(answer)]
    row = len(prompt) + at - ("Dream" in type(model).__name__)
    rows = [prompt + text, [mask_id] * len(prompt) + text]
    with torch.no_grad():
        given, without = (model(torch.tensor([r])).logits[0, row].double() for r in rows)
    logits = without + (1 + guidance) * (given - without) if guidance else given
    return logits.log_softmax(-1)[answer[at]]


def over_all_orders(model, prompt, answer, guidance=0.0):
    """Mean over all orders of revealing the answer token by token."""
    orders, total = list(permutations(range(len(answer)))), 0.0
    known = {}
    for order in orders:
        for step, at in enumerate(order):
            key = (frozenset(order[step:]), at)
            if key not in known:
                known[key] = float(log_probability(model, prompt, answer, *key, guidance))
            total += known[key]
    return total / len(orders)


@pytest.mark.parametrize("guidance", (0.0, 1.5))
def test_short_answers_are_exact(model, guidance):
    want = [over_all_orders(model, *pair, guidance) for pair in PAIRS]
    found = dpad.loglikelihood(model, PAIRS, samples=16, cfg_scale=guidance, micro_batch=7)
    torch.testing.assert_close(found.value, torch.tensor(want, dtype=torch.float64), **CLOSE)
    assert found.standard_error.tolist() == [0.0] * 4
    assert found.canvases.tolist() == [1, 3, 7, 15]


@pytest.mark.parametrize("samples", (2, 8, 14))
def test_mean_and_standard_error_are_right(llada, samples):
    draws = 600
    exact = dpad.loglikelihood(llada, [PAIRS[3]], samples=16).value
    found = dpad.loglikelihood(
        llada, [PAIRS[3]] * draws, samples=samples, row_keys=range(draws), micro_batch=500
    )
    variance = found.value.var()
    assert abs(found.value.mean() - exact) < 4 * (variance / draws).sqrt()
    # A variance from 600 draws is uncertain by 6 %, the mean of the estimates by less than 10 %.
    assert found.standard_error.square().mean() == pytest.approx(float(variance), rel=0.35)
    assert (found.canvases <= samples).all()


def test_strata_lower_the_variance(llada):
    """Against independent draws of the number of masked tokens: their variance is 2 / samples
    times that of the estimates of one stratum."""
    draws = 400
    keys = {"row_keys": range(draws), "micro_batch": 500}
    alone = dpad.loglikelihood(llada, [PAIRS[3]] * draws, samples=2, **keys).value.var()
    strata = dpad.loglikelihood(llada, [PAIRS[3]] * draws, samples=14, **keys).value.var()
    assert strata < 0.8 * alone * 2 / 14


class Recorder:
    """The canvases that a model embeds and the rows its head gets, by forward hooks."""

    def __init__(self, model):
        self.tokens, self.rows = [], 0
        model.get_input_embeddings().register_forward_hook(self.embed)
        model.model.transformer.ff_out.register_forward_hook(self.head)

    def embed(self, module, args, out):
        self.tokens.append(args[0])

    def head(self, module, args, out):
        self.rows += args[0].shape[0]


def recorded(model, pairs, **options):
    """What `loglikelihood` gives, and the canvases it embedded, in their order, flat."""
    recorder = Recorder(model)
    found = dpad.loglikelihood(model, pairs, **options)
    tokens = torch.cat(recorder.tokens)
    assert recorder.rows == (tokens == MASK_ID).sum()  # only masked rows reach the head
    return found, tokens


@pytest.mark.parametrize("micro_batch", (1, 5, None))
def test_masks_do_not_depend_on_the_batch(llada, micro_batch):
    options = {"samples": 12, "seed": 3}
    want, canvases = recorded(llada, LONG, micro_batch=8, **options)
    found, same = recorded(llada, LONG, micro_batch=micro_batch, **options)
    assert torch.equal(same, canvases)
    torch.testing.assert_close(found.value, want.value, **CLOSE)
    torch.testing.assert_close(found.standard_error, want.standard_error, rtol=1e-4, atol=1e-4)


def test_a_pair_alone_and_in_any_order_is_the_same(llada):
    options = {"samples": 12, "seed": -5, "micro_batch": 1}
    together = dpad.loglikelihood(llada, LONG, **options)
    turned = dpad.loglikelihood(llada, LONG[::-1], **options)
    assert torch.equal(together.value, turned.value.flip(0))
    assert torch.equal(together.standard_error, turned.standard_error.flip(0))
    alone = [float(dpad.loglikelihood(llada, [pair], **options).value) for pair in LONG]
    assert together.value.tolist() == alone


def test_patched_and_native_and_stock_agree(llada, stock):
    plain = dpad.loglikelihood(llada, LONG, samples=16)
    assert (plain.standard_error > 0).all()
    for model in (llada, stock):
        with dpad.patch(model):
            patched = dpad.loglikelihood(model, LONG, samples=16)
        torch.testing.assert_close(patched.value, plain.value, **CLOSE)
        assert torch.equal(patched.canvases, plain.canvases)


def test_numbers_of_masked_tokens_cover_their_range_evenly(llada):
    """With two draws for each number, each is drawn twice; all masked is one canvas."""
    prompt, answer = [4, 7], [30, 31, 32, 33, 34, 35, 36, 37]
    _, tokens = recorded(llada, [(prompt, answer)], samples=16, seed=1)
    masked = (tokens.view(-1, 10) == MASK_ID).sum(1).tolist()
    assert masked.count(8) == 1
    assert all(masked.count(n) == 2 for n in range(2, 8)) and masked.count(1) in (1, 2)


def test_keys_and_seeds(llada):
    two = [([1, 2], LONG[0][1]), ([3], LONG[0][1])]
    _, shared = recorded(llada, two, samples=4, row_keys=[6, 6], micro_batch=1)
    half = len(shared) * 14 // 27
    masks = [part == MASK_ID for part in (shared[:half].view(-1, 14), shared[half:].view(-1, 13))]
    assert torch.equal(masks[0][:, 2:], masks[1][:, 1:])
    _, apart = recorded(llada, two, samples=4, micro_batch=1)
    assert not torch.equal(apart, shared)
    torch.manual_seed(11)
    drawn = dpad.loglikelihood(llada, two, samples=4, seed=None)
    again = dpad.loglikelihood(llada, two, samples=4, seed=drawn.seed)
    assert torch.equal(drawn.value, again.value)
    assert not torch.equal(dpad.loglikelihood(llada, two, samples=4).value, drawn.value)


def test_half_precision_and_no_pairs(llada):
    want = dpad.loglikelihood(llada, LONG, samples=8).value
    half = dpad.loglikelihood(llada.bfloat16(), LONG, samples=8).value
    torch.testing.assert_close(half, want, rtol=0.03, atol=0.0)
    none = dpad.loglikelihood(llada, [])
    assert none.value.shape == none.standard_error.shape == none.canvases.shape == (0,)


def test_an_empty_prompt_and_an_impossible_token(llada):
    answer = [9, 41]
    found = dpad.loglikelihood(llada, [([], answer), (torch.tensor([3]), torch.tensor(answer))])
    assert float(found.value[0]) == pytest.approx(over_all_orders(llada, [], answer), rel=1e-5)
    llada.model.transformer.ff_out.register_forward_hook(
        lambda module, args, out: out.index_fill(-1, torch.tensor([41]), -torch.inf)
    )
    never = dpad.loglikelihood(llada, [([3], answer), ([3], answer * 8)], samples=4)
    assert never.value.tolist() == [-torch.inf] * 2


BAD = [
    ({"samples": 3}, "samples = 3"),
    ({"samples": 0}, "samples = 0"),
    ({"samples": None}, "samples = None"),
    ({"samples": True}, "samples = True"),
    ({"cfg_scale": -1.0}, "cfg_scale = -1.0"),
    ({"cfg_scale": float("nan")}, "cfg_scale = nan"),
    ({"micro_batch": 0}, "micro_batch = 0"),
    ({"mask_token_id": 320}, "mask_token_id = 320"),
    ({"seed": 2**63}, f"seed = {2**63}"),
    ({"seed": 1.0}, "seed = 1.0"),
    ({"row_keys": [1, 2]}, "row_keys holds 2 keys for 1 pairs"),
    ({"row_keys": [-(2**63) - 1]}, r"row_keys\[0\] = -"),
    ({"pairs": 5}, "pairs = 5"),
    ({"pairs": None}, "pairs = None"),
    ({"pairs": [([1], [])]}, r"pairs\[0\] has an empty answer"),
    ({"pairs": [([1], [2]), ([1], [320])]}, r"pairs\[1\] holds id 320"),
    ({"pairs": [([-1], [2])]}, r"pairs\[0\] holds id -1"),
    ({"pairs": [([1], [MASK_ID])]}, f"pairs.0. holds id {MASK_ID}: the mask id"),
    ({"pairs": [([1] * 200, [2] * 57)]}, r"200 \+ answer of 57 = 257 positions"),
    ({"pairs": [([[1]], [2])]}, r"pairs\[0\]\[0\] has shape \[1, 1\]"),
    ({"pairs": [([1], [2.5])]}, r"pairs\[0\]\[1\] has dtype torch.float32"),
    ({"pairs": [("ab", [2])]}, r"pairs\[0\]\[0\] = 'ab'"),
    ({"pairs": [[1, 2, 3]]}, r"pairs\[0\] = \[1, 2, 3\]"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD)
def test_refusals_come_first(llada, wrong, message):
    recorder = Recorder(llada)
    state = torch.get_rng_state()
    with pytest.raises((TypeError, ValueError), match=message):
        dpad.loglikelihood(llada, **{"pairs": [([1], [2])], "seed": None, **wrong})
    assert torch.equal(torch.get_rng_state(), state) and not recorder.tokens


def test_refusals_by_the_model(llada, dream):
    with pytest.raises(ValueError, match=r"pairs\[1\] has an empty prompt"):
        dpad.loglikelihood(dream, [([1], [2]), ([], [2])])
    llada.model.transformer.ff_out.register_forward_hook(
        lambda module, args, out: out.where(torch.tensor([False]), torch.nan)
    )
    with pytest.raises(NaNLogitsError, match=r"pairs\[0\]"):
        dpad.loglikelihood(llada, [([1], [2])])
    llada.config.mask_token_id = None
    with pytest.raises(ValueError, match="pass mask_token_id="):
        dpad.loglikelihood(llada, [([1], [2])])
