"""confidence: tokens exactly, scores against float64, ties, suppressed and excluded ids."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_helpers import (
    DTYPES,
    Guarded,
    assert_same_bits,
    call,
    generator,
    offsets_of,
    threads,
    twin,
)

from dpad.ops.reference import gumbel

NAN, INF = float("nan"), float("inf")
# Around one vector, and around the kernel's blocks of 1024 ids.
VOCABS = (1, 2, 3, 15, 16, 17, 31, 33, 64, 65, 127, 1000, 1023, 1024, 1025, 1090, 2049, 5003)


def ids(*values):
    return torch.tensor(values, dtype=torch.int64)


def sampler_case(seed, dtype, vocab, counts, scale=3.0, temperature=0.0, suppress=0, exclude=0):
    """Sequences with these logit rows; `suppress` and `exclude` are numbers of random ids."""
    g = generator(seed)
    rows, batch = sum(counts), len(counts)
    far = lambda *shape: torch.randint(-(2**62), 2**62, shape, generator=g)  # noqa: E731
    return {
        "logits": (scale * torch.randn(rows, vocab, generator=g)).to(dtype),
        "l_offsets": offsets_of(counts),
        "position": torch.randint(0, 2**40, (rows,), generator=g),
        "rng": far(batch, 3),
        "temperature": torch.full((batch,), temperature, dtype=torch.float64),
        "suppress": torch.randperm(vocab, generator=g)[: min(suppress, vocab - 1)],
        "exclude": torch.randperm(vocab, generator=g)[: min(exclude, vocab - 1)],
        "noise": None,
        "round_to_dtype": False,
    }


def greedy(logits, suppress=(), exclude=()):
    """`logits` of one sequence at temperature 0."""
    return {
        **sampler_case(0, logits.dtype, 1, [logits.shape[0]]),
        "logits": logits,
        "suppress": ids(*suppress),
        "exclude": ids(*exclude),
    }


def float32_scores(args, token):
    """Probability, margin and entropy by torch in float32."""
    x = args["logits"].float().index_fill(1, args["exclude"], -INF)
    p = torch.softmax(x, -1)
    top = p.topk(min(2, p.shape[1]), -1).values
    margin = top[:, 0] - top[:, 1] if p.shape[1] > 1 else top[:, 0]
    entropy = -torch.xlogy(p, p).sum(-1)
    return p.gather(1, token[:, None])[:, 0].double(), margin.double(), entropy.double()


def check(args):
    """The twin's tokens; scores at most twice as far from float64 as torch in float32."""
    actual, truth = call("confidence", args), twin("confidence", args)
    assert_same_bits(actual[0], truth[0])
    for name, a, t, f in zip(
        ("probability", "margin", "entropy"),
        actual[1:],
        truth[1:],
        float32_scores(args, truth[0]),
        strict=True,
    ):
        assert a.dtype == torch.float64 and a.shape == t.shape
        if a.numel():
            error, allowed = (a - t).abs().max(), (f - t).abs().max()
            # Two float32 units of the largest score on top: few rows may be lucky.
            assert error <= 2 * allowed + 2.4e-7 * t.abs().max(), f"{name}: {error} {allowed}"
    return actual


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_awkward_vocabularies(isa, dtype, temperature):
    for vocab in VOCABS:
        check(sampler_case(vocab, dtype, vocab, [3, 0, 2], temperature=temperature))
        check(sampler_case(vocab, dtype, vocab, [2], 3.0, temperature, suppress=2, exclude=3))


@pytest.mark.parametrize("counts", [[], [0], [0, 0], [1]])
def test_few_rows(isa, counts):
    check(sampler_case(0, torch.float32, 100, counts, temperature=0.5))


@given(st.data())
def test_random_calls(isa, data):
    vocab = data.draw(st.integers(1, 2600))
    args = sampler_case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.sampled_from(DTYPES)),
        vocab,
        data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3)),
        data.draw(st.sampled_from((0.1, 1.0, 3.0, 12.0))),
        0.0,
        data.draw(st.sampled_from((0, 0, 1, 4, vocab // 2))),
        data.draw(st.sampled_from((0, 0, 1, 4, vocab // 2))),
    )
    hot = data.draw(st.lists(st.sampled_from((0.0, 0.3, 1.0, 2.5)), min_size=3, max_size=3))
    args["temperature"] = torch.tensor(hot[: len(args["rng"])], dtype=torch.float64)
    if data.draw(st.booleans()):
        g = generator(data.draw(st.integers(0, 99)))
        uniform = torch.rand(args["logits"].shape, generator=g, dtype=torch.float64)
        args["noise"] = -torch.log(-torch.log(uniform))
    order = data.draw(st.sampled_from(((0, 1), (1, 0))))
    gap = data.draw(st.integers(0, 3))
    guarded = Guarded()
    placed = guarded.put_all(args, logits=(order, gap), noise=(order, 1), rng=((1, 0), gap))
    check(placed)
    guarded.check()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_real_vocabulary(isa, temperature):
    """LLaDA's 126464 ids, the mask id suppressed."""
    args = sampler_case(1, torch.bfloat16, 126464, [3], 2.0, temperature)
    args["suppress"] = ids(126336)
    args["logits"][1, 126336] = 30
    actual = check(args)
    assert actual[0].ne(126336).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_to_the_lowest_id(isa, dtype):
    g = generator(3)
    for vocab in (2, 17, 64, 1024, 1500, 3000):
        logits = torch.randn(20, vocab, generator=g).clamp(max=2).to(dtype)
        for row in range(20):
            logits[row, torch.randperm(vocab, generator=g)[: 2 + row % 5]] = 4.0
        expected = torch.stack([(row == 4).nonzero()[0, 0] for row in logits])
        token, probability, margin, _ = call("confidence", greedy(logits))
        assert torch.equal(token, expected)
        assert margin.eq(0).all() and probability.le(0.5).all()


def test_ties_with_ids_that_are_treated_apart(isa):
    """Excluded ids can be chosen, suppressed ones cannot: the lowest of the rest wins a tie."""
    logits = torch.zeros(1, 1100)
    logits[0, [40, 50, 60, 1050]] = 2.0
    for suppress, exclude, expected in (
        ((), (40,), 40),
        ((), (50, 1050), 40),
        ((40,), (), 50),
        ((40,), (50,), 50),
        ((40, 50), (60, 1050), 60),
        ((50,), (40, 1050), 40),
        ((40, 50, 60), (50,), 1050),
    ):
        assert call("confidence", greedy(logits, suppress, exclude))[0] == expected


def test_the_lowest_id_where_all_are_equal(isa):
    token, probability, margin, entropy = call("confidence", greedy(torch.zeros(2, 1027)))
    assert token.eq(0).all() and margin.eq(0).all()
    torch.testing.assert_close(probability, torch.full_like(probability, 1 / 1027))
    torch.testing.assert_close(entropy, torch.full_like(entropy, math.log(1027)))


def test_confident_rows_keep_their_order(isa):
    """1 - p keeps its relative precision far below float32's: down to 1e-13."""
    gaps = torch.arange(2.0, 36.0, 0.5)
    logits = torch.zeros(len(gaps), 50)
    logits[:, 20] = gaps
    _, probability, margin, _ = call("confidence", greedy(logits))
    others = 49 * torch.exp(-gaps.double())
    doubt = others / (1 + others)
    torch.testing.assert_close(1 - probability, doubt, rtol=1e-5, atol=2e-16)
    assert (probability.diff() > 0).all() and (margin.diff() > 0).all()


def test_margins_of_near_ties(isa):
    """The margin keeps its relative precision where the best two nearly meet."""
    logits = torch.full((4, 33), -4.0)
    logits[:, 9] = 1.0
    logits[:, 30] = 1.0 - 2.0 ** torch.tensor([-23.0, -20.0, -15.0, -10.0])
    args = greedy(logits)
    torch.testing.assert_close(
        call("confidence", args)[2], twin("confidence", args)[2], rtol=1e-6, atol=0
    )


def test_a_vocabulary_of_one(isa):
    token, probability, margin, entropy = call("confidence", greedy(torch.randn(3, 1)))
    assert token.eq(0).all() and probability.eq(1).all()
    assert margin.eq(1).all() and entropy.eq(0).all()


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_suppressed_ids_are_never_chosen(isa, temperature):
    args = sampler_case(4, torch.float32, 1300, [40], 1.0, temperature)
    args["suppress"] = ids(1299, 7, 1024, 7, 0)  # unsorted, one twice
    args["logits"][:, args["suppress"]] += 9
    token, probability, *_ = check(args)
    assert not torch.isin(token, args["suppress"]).any()
    assert probability.lt(0.01).all()  # the suppressed ids stay in the soft-max


def test_excluded_ids_leave_the_soft_max(isa):
    logits = torch.randn(30, 1300, generator=generator(5))
    args = greedy(logits, exclude=(1299, 3, 1024))
    logits[:, 3] = 8.0
    token, probability, margin, entropy = check(args)
    assert token.eq(3).all() and probability.eq(0).all()  # chosen, but with no probability
    without = logits[:, [i for i in range(1300) if i not in (3, 1024, 1299)]]
    _, _, margin_without, entropy_without = call("confidence", greedy(without.contiguous()))
    torch.testing.assert_close(margin, margin_without, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(entropy, entropy_without, rtol=1e-6, atol=0)


def test_masked_logits(isa):
    """Minus infinity is an impossible id, as a sampler with top-k leaves behind."""
    logits = torch.randn(60, 1200, generator=generator(6))
    logits[logits < 1.5] = -INF
    logits[0], logits[0, 700] = -INF, 2.0
    token, probability, margin, entropy = check(greedy(logits))
    assert (token[0], probability[0], margin[0], entropy[0]) == (700, 1, 1, 0)
    hot = {**greedy(logits), "temperature": torch.tensor([5.0], dtype=torch.float64)}
    token = check(hot)[0]
    assert logits.gather(1, token[:, None]).isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_impossible_rows_give_nan_and_a_usable_token(isa, temperature):
    """NaN or +inf anywhere, or no finite logit at all: the scores are NaN, the token is legal."""
    for vocab in (5, 64, 1500):
        logits = torch.randn(8, vocab, generator=generator(7))
        logits[0, 0] = logits[1, vocab - 1] = logits[2, 3] = NAN
        logits[3] = NAN
        logits[4, 2] = INF
        logits[5] = -INF
        args = {**greedy(logits, suppress=(0, 1)), "temperature": ids(0).double() + temperature}
        token, *scores = call("confidence", args)
        for score in scores:
            assert score[:6].isnan().all() and score[6:].isfinite().all()
        assert ((token >= 2) & (token < vocab)).all()
        expected = twin("confidence", args)
        for score, other in zip(scores, expected[1:], strict=True):
            assert torch.equal(score.isnan(), other.isnan())
        assert (expected[0] >= 2).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_to_the_dtype_of_the_logits(isa, dtype):
    args = sampler_case(8, dtype, 777, [50], 2.0)
    token, *plain = call("confidence", args)
    rounded = call("confidence", {**args, "round_to_dtype": True})
    assert_same_bits(rounded, (token, *(s.to(dtype).double() for s in plain)))


def test_caller_noise_equal_to_our_own(isa):
    """Noise from the generator's twin, handed in, gives the tokens of the kernel's own noise."""
    args = sampler_case(9, torch.float32, 1111, [30, 3], 1.0, 0.9, suppress=3)
    noise = gumbel(args["rng"], args["l_offsets"], args["position"], 1111)
    assert_same_bits(call("confidence", args), call("confidence", {**args, "noise": noise}))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_row_depends_on_nothing_else(isa, dtype, temperature):
    # Enough work for two threads.
    args = sampler_case(10, dtype, 9001, [9, 4], 2.0, temperature, suppress=2, exclude=2)
    with threads(1):
        whole = call("confidence", args)
    with threads(2):
        assert_same_bits(call("confidence", args), whole)
    for row in range(13):
        b = int(row >= 9)
        alone = {
            **args,
            "logits": args["logits"][row : row + 1],
            "l_offsets": ids(0, 1),
            "position": args["position"][row : row + 1],
            "rng": args["rng"][b : b + 1],
            "temperature": args["temperature"][b : b + 1],
        }
        assert_same_bits(call("confidence", alone), tuple(w[row : row + 1] for w in whole))


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_peaks_where_they_are_flushed(isa, dtype):
    """The largest logit is subnormal, and the processor reads subnormals as zero."""
    logits = torch.full((2, 2100), -1.0).to(dtype)
    logits[:, 1500] = 6e-8 if dtype == torch.float16 else 1e-40
    logits[1, 1037] = 0.0  # ties with it where it is flushed; else it is smaller
    args = greedy(logits)
    assert torch.set_flush_denormal(True)
    try:
        actual = call("confidence", args)
    finally:
        torch.set_flush_denormal(False)
    assert actual[0][0] == 1500 and actual[0][1] in (1037, 1500)
    for score, truth in zip(actual[1:], twin("confidence", args)[1:], strict=True):
        torch.testing.assert_close(score, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1e30, 1.3e30, 6e36, 8e36, 1e38, 1e39, 1e100, 1e300, 1e308])
def test_any_finite_temperature(isa, dtype, temperature):
    """The twin's tokens, also where bounds of the noise leave float32's range."""
    args = sampler_case(5, dtype, 3000, [4, 3], 3.0, temperature, suppress=3)
    args["logits"][1] *= 1e4
    args["logits"][2, ::2] = -INF
    args["logits"][3, ::3] = torch.finfo(dtype).min
    assert_same_bits(call("confidence", args)[0], twin("confidence", args)[0])
