"""Random numbers of the sampler: Philox known answers, Gumbel tails, sampled frequencies."""

import math

import pytest
import torch
from op_helpers import call, chi_square_limit, offsets_of

from dpad.ops.reference import gumbel
from dpad.ops.reference.philox import philox
from dpad.ops.reference.sampling import gumbel_of_words


def words(*values):
    return [torch.tensor(v) for v in values]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    """Published vectors of Random123 (Salmon et al., SC 2011)."""
    assert tuple(int(w) for w in philox(words(*counter), words(*key))) == expected


def test_gumbel_keeps_its_tails():
    """Full precision at both ends: no word pair is infinite, the largest is far above 36.7."""
    top = 2**32 - 1
    largest, second, smallest = gumbel_of_words(*words([0, 1, top], [0, 0, top])).tolist()
    assert largest == pytest.approx(65 * math.log(2), abs=1e-9)
    assert second == pytest.approx(32 * math.log(2), abs=1e-9)
    assert smallest == pytest.approx(-math.log(65 * math.log(2)), abs=1e-9)


def test_gumbel_moments():
    """Mean is Euler's constant, variance pi^2 / 6, over 200,000 draws."""
    rng = torch.tensor([[5, 0, 3]])
    draws = gumbel(rng, offsets_of([100]), torch.arange(100), 2000).flatten()
    assert float(draws.mean()) == pytest.approx(0.5772156649, abs=0.015)
    assert float(draws.var()) == pytest.approx(math.pi**2 / 6, rel=0.03)


def two_id_tokens(handicap, position):
    """Tokens of rows whose logits are (handicap, 0) at temperature 1, seed, key and forward 0."""
    rows = len(position)
    nothing = torch.zeros(0, dtype=torch.int64)
    return call(
        "confidence",
        {
            "logits": torch.stack((handicap, torch.zeros(rows)), -1),
            "l_offsets": offsets_of([rows]),
            "position": position,
            "rng": torch.zeros(1, 3, dtype=torch.int64),
            "temperature": torch.ones(1, dtype=torch.float64),
            "suppress": nothing,
            "exclude": nothing,
        },
    )[0]


def test_the_kernel_adds_exactly_this_noise(isa):
    """The token changes where the logits' difference crosses that of the noise, within 4e-6."""
    position = torch.arange(2000)
    noise = gumbel(torch.zeros(1, 3, dtype=torch.int64), offsets_of([2000]), position, 2)
    balance = (noise[:, 1] - noise[:, 0]).float()
    assert two_id_tokens(balance + 4e-6, position).eq(0).all()
    assert two_id_tokens(balance - 4e-6, position).eq(1).all()


def test_a_draw_of_the_far_tail(isa):
    """A draw of probability 2^-34, at a position found by search: 24-bit uniforms end at 16.6."""
    position = torch.tensor([5_292_353_953])
    noise = gumbel(torch.zeros(1, 3, dtype=torch.int64), offsets_of([1]), position, 2)
    assert noise[0].tolist() == pytest.approx([-1.162150, 23.535158], abs=1e-6)
    balance = (noise[:, 1] - noise[:, 0]).float()
    assert two_id_tokens(balance + 1e-5, position) == 0
    assert two_id_tokens(balance - 1e-5, position) == 1


VOCAB = 11


def tokens(draws, temperature, key="position", suppress=()):
    """`draws` samples of one fixed row of logits, apart by position, forward, row key or seed."""
    logits = torch.linspace(-1.5, 1.5, VOCAB)
    many = torch.arange(draws)
    alone = key == "position"
    rng = torch.zeros(1 if alone else draws, 3, dtype=torch.int64)
    if not alone:
        rng[:, ("seed", "row_key", "forward").index(key)] = many
    batch = len(rng)
    token, *_ = call(
        "confidence",
        {
            "logits": logits.expand(draws, VOCAB),
            "l_offsets": offsets_of([draws] if alone else [1] * draws),
            "position": many if alone else torch.full((draws,), 9),
            "rng": rng,
            "temperature": torch.full((batch,), temperature, dtype=torch.float64),
            "suppress": torch.tensor(suppress, dtype=torch.int64),
            "exclude": torch.zeros(0, dtype=torch.int64),
        },
    )
    allowed = logits.double().clone()
    allowed[list(suppress)] = float("-inf")
    return token, torch.softmax(allowed / temperature, 0)


def assert_frequencies(token, p):
    """Chi-square below its 1e-4 quantile; impossible ids never appear."""
    count = torch.bincount(token, minlength=VOCAB).double()
    expected = p * len(token)
    assert count[p == 0].eq(0).all()
    cells = p > 0
    statistic = ((count - expected)[cells] ** 2 / expected[cells]).sum()
    free = int(cells.sum()) - 1
    assert float(statistic) < chi_square_limit(free)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_sampled_frequencies(isa, temperature):
    """30,000 samples follow softmax(logits / temperature)."""
    assert_frequencies(*tokens(30_000, temperature))


@pytest.mark.parametrize("key", ["seed", "row_key", "forward"])
def test_every_key_gives_fresh_noise(isa, key):
    assert_frequencies(*tokens(20_000, 1.0, key))


def test_suppressed_ids_leave_the_others_proportional(isa):
    assert_frequencies(*tokens(30_000, 1.0, suppress=(10, 3)))


def test_neighbouring_samples_are_independent(isa):
    """Pairs of neighbouring positions: the joint frequencies are the products."""
    token, p = tokens(40_000, 2.5)
    pair = torch.bincount(token[:-1:2] * VOCAB + token[1::2], minlength=VOCAB**2).double()
    expected = torch.outer(p, p).flatten() * (len(token) // 2)
    statistic = float(((pair - expected) ** 2 / expected).sum())
    assert statistic < chi_square_limit(VOCAB**2 - 1)


def test_temperature_to_zero_is_the_argmax(isa):
    token, _ = tokens(200, 1e-9)
    assert token.eq(VOCAB - 1).all()
