"""Refreshes that begin at the block before: what they compute, and when that is exact."""

import pytest
import torch

import dpad
from dpad.decode.plan import Planner, draw_suffix
from tests.decode.common import sequence, tiny
from tests.generation import random_calls

OPTIONS = {
    "max_new_tokens": 40,
    "block_length": 8,
    "seed": 0,
    "early_stop": False,
    "threshold": 0.4,
}
RECENT = {**OPTIONS, "refresh": "recent"}
SUFFIXES = (
    dpad.Suffix("all"),
    dpad.Suffix("gaussian", window=16, density=0.4),
    dpad.Suffix("none"),
)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(
    ("look_back", "begin"), [(1, [0, 5, 13, 0, 29]), (2, [0, 5, 5, 0, 21]), (9, [0, 5, 5, 0, 5])]
)
def test_the_rows_of_a_refresh_begin_some_blocks_before(shift, look_back, begin):
    q = sequence([1] * 5, 40, cache="dual", look_back=look_back, refresh_period=3)
    q.row = q.start = 0
    firsts, plan = [], Planner(shift)
    for _ in q.blocks:
        draw_suffix([q])
        layout = plan.layout([q])
        firsts.append(int(layout.slot[0]))
        assert layout.slot.tolist() == list(range(firsts[-1], int(layout.n_keys)))
        assert layout.logit_row[0] == q.current[0] - shift - firsts[-1]
        assert q.rows == layout.rows
        q.advance()
    assert firsts == begin  # every third block computes everything


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_one_layer_needs_no_more(cache, suffix):
    """K and V of the first layer follow from a token and its position alone: nothing is lost."""
    model = tiny(layers=1)
    prompts = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    options = {"cache": cache, "suffix": suffix, "return_dict_in_generate": True}
    full = dpad.generate(model, prompts, **OPTIONS, **options)
    recent = dpad.generate(model, prompts, **RECENT, **options)
    assert torch.equal(recent.sequences, full.sequences)
    assert torch.equal(recent.forwards, full.forwards)
    assert recent.timings["positions"] < full.timings["positions"]


@pytest.mark.parametrize("make", [tiny, random_calls.dream])
def test_a_period_of_one_is_a_full_refresh(make):
    model = make()
    for cache in ("prefix", "dual"):
        full = dpad.generate(model, [[1, 2, 3]], cache=cache, **OPTIONS)
        assert torch.equal(
            dpad.generate(model, [[1, 2, 3]], cache=cache, refresh_period=1, **RECENT), full
        )


def test_looking_further_back_computes_more():
    model, spent = tiny(), []
    for look_back in (None, 1, 2, 3):
        out = dpad.generate(
            model, [[1, 2, 3]], cache="dual", look_back=look_back, return_dict_in_generate=True,
            **RECENT | {"threshold": 1.1},
        )  # fmt: skip
        spent.append(out.timings["positions"])
    assert spent[0] == spent[1] < spent[2] < spent[3]


@pytest.mark.parametrize("make", [tiny, random_calls.dream])
def test_a_row_alone_in_a_batch_and_in_an_engine(make):
    model = make()
    prompts = [[1, 2, 3], [4] * 9, [5] * 2, [6] * 7]
    options = {**RECENT, "cache": "dual", "cfg_scale": 0.5}
    alone = [
        dpad.generate(model, [p], row_keys=[n], **options)[0, len(p) :]
        for n, p in enumerate(prompts)
    ]
    for micro_batch in (2, 4):
        out = dpad.generate(model, prompts, micro_batch=micro_batch, **options)
        assert all(torch.equal(row[-40:], own) for row, own in zip(out, alone, strict=True))
    with dpad.Engine(model, max_sequences=3, max_tokens=512) as engine:
        for out, own in zip(engine.map(prompts, **options), alone, strict=True):
            assert torch.equal(out.sequences[0, -40:], own)


def test_what_means_nothing_is_refused():
    with pytest.raises(ValueError, match="refresh = 'recent' and cache = 'none'"):
        dpad.generate(tiny(), [[1]], cache="none", **RECENT)
    with pytest.raises(ValueError, match="refresh_period = 2 goes with"):
        dpad.generate(tiny(), [[1]], cache="dual", refresh_period=2, **OPTIONS)
    with pytest.raises(ValueError, match="look_back = 1 goes with"):
        dpad.generate(tiny(), [[1]], cache="dual", look_back=1, **OPTIONS)
    with pytest.raises(ValueError, match="refresh"):
        dpad.DPadGenerationConfig(refresh="sometimes")
