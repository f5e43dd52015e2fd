"""route: scores, groups, ties, NaN, the order by expert; against the twin and the definition."""

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

from dpad import ops

INF, NAN = float("inf"), float("nan")
PLAIN = {"bias": None, "top_k": 2, "score": "softmax", "normalise": False}
PLAIN |= {"groups": 1, "top_groups": 1, "scaling": 1.0}


def route_case(seed, dtype=torch.float32, rows=7, experts=16, biased=False, **options):
    g = generator(seed)
    args = {"logits": (2 * torch.randn(rows, experts, generator=g)).to(dtype), **PLAIN, **options}
    if biased:
        args["bias"] = 0.3 * torch.randn(experts, generator=g)
    return args


def check_order(expert, order, offsets, experts):
    """The definition: a stable sort by expert, and where each expert ends."""
    flat = expert.flatten()
    assert order.tolist() == sorted(range(flat.numel()), key=lambda i: (flat[i].item(), i))
    counts = torch.bincount(flat, minlength=experts)
    assert offsets.tolist() == offsets_of(counts.tolist())[1:].tolist()


def check(args):
    """The operator and its twin, where only scores closer than rounding may change places."""
    for run in (call, twin):
        expert, weight, order, offsets = run("route", args)
        check_order(expert, order, offsets, args["logits"].shape[1])
        check_choice(args, expert)
        check_weight(args, expert, weight)


def scores_of(args):
    logits = args["logits"].double()
    return logits.softmax(-1) if args["score"] == "softmax" else logits.sigmoid()


def check_choice(args, expert):
    """Bounds of the scores that choose, in float64, decide whatever float32 can decide."""
    rows, experts = args["logits"].shape
    scores = scores_of(args)
    bias = torch.zeros(experts) if args["bias"] is None else args["bias"].double()
    slack = 1e-6 * (scores + bias.abs()) + 1e-37
    low, high = scores + bias - slack, scores + bias + slack
    groups, size = args["groups"], experts // args["groups"]
    surely = possibly = torch.ones(rows, experts, dtype=torch.bool)
    if groups > 1:
        least, most = (t.view(rows, groups, size).topk(2).values.sum(-1) for t in (low, high))
        ahead = (most[:, None] >= least[:, :, None]).sum(-1) - 1  # at most, but for itself
        behind = (least[:, None] > most[:, :, None]).sum(-1)  # at least
        surely = (ahead < args["top_groups"]).repeat_interleave(size, 1)
        possibly = (behind < args["top_groups"]).repeat_interleave(size, 1)
    chosen = torch.zeros(rows, experts, dtype=torch.bool).scatter_(1, expert, True)
    assert (chosen.sum(-1) == args["top_k"]).all() and not (chosen & ~possibly).any()
    best, worst = high.gather(1, expert), low.gather(1, expert)
    assert (best[:, :-1] >= worst[:, 1:]).all()
    assert not (surely & ~chosen & (low > best[:, -1:])).any()
    if args["bias"] is None:  # ties that are exact have a rule
        logit = args["logits"].gather(1, expert)
        tied = logit[:, :-1] == logit[:, 1:]
        assert (expert[:, :-1] < expert[:, 1:])[tied].all()


def check_weight(args, expert, weight):
    wanted = scores_of(args).gather(1, expert)
    if args["normalise"]:
        wanted = wanted / wanted.sum(-1, keepdim=True)
    wanted = (wanted * args["scaling"]).float()
    torch.testing.assert_close(weight, wanted, rtol=2e-6, atol=1e-37)


def test_by_hand(device):
    """Two of four experts by soft-max; a bias moves the choice and not the weights."""
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0], [0.0, 0.0, 5.0, 1.0]])
    p = logits.softmax(-1)
    expert, weight, order, offsets = call("route", {"logits": logits, **PLAIN})
    assert expert.tolist() == [[1, 2], [2, 3]]
    torch.testing.assert_close(weight, p.gather(1, expert))
    assert order.tolist() == [0, 1, 2, 3] and offsets.tolist() == [0, 1, 3, 4]
    bias = torch.tensor([2.0, 0.0, 0.0, 0.0])
    scaled = {**PLAIN, "bias": bias, "normalise": True, "scaling": 2.5}
    expert, weight, order, offsets = call("route", {"logits": logits, **scaled})
    assert expert.tolist() == [[0, 1], [0, 2]]
    chosen = p.gather(1, expert)
    torch.testing.assert_close(weight, 2.5 * chosen / chosen.sum(-1, keepdim=True))
    assert order.tolist() == [0, 2, 1, 3] and offsets.tolist() == [2, 3, 4, 4]


def test_groups_by_hand(device):
    """The best expert stands in a group that the sum of two keeps out."""
    logits = torch.tensor([[9.0, -9.0, 2.0, 1.9, -1.0, -2.0, 1.0, 1.1]])
    args = {**PLAIN, "score": "sigmoid", "groups": 4, "top_groups": 1}
    assert call("route", {"logits": logits, **args})[0].tolist() == [[2, 3]]
    args |= {"top_groups": 3, "top_k": 6}
    assert call("route", {"logits": logits, **args})[0].tolist() == [[0, 2, 3, 7, 6, 1]]


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_ties_go_to_the_lowest(device, score):
    args = {**PLAIN, "logits": torch.zeros(5, 12), "top_k": 5, "score": score}
    assert call("route", args)[0].tolist() == [[0, 1, 2, 3, 4]] * 5
    args |= {"groups": 3, "top_groups": 2}
    assert call("route", args)[0].tolist() == [[0, 1, 2, 3, 4]] * 5
    args["bias"] = torch.tensor([-0.25] * 4 + [0.0] * 8)
    assert call("route", args)[0].tolist() == [[4, 5, 6, 7, 8]] * 5


RELEASED = {
    "Qwen3-MoE, RND1, SDAR-MoE": {"experts": 128, "top_k": 8, "normalise": True},
    "LLaDA-MoE": {"experts": 64, "top_k": 8},
    "LLaDA2": {
        "experts": 256,
        "top_k": 8,
        "score": "sigmoid",
        "normalise": True,
        "groups": 8,
        "top_groups": 4,
        "scaling": 2.5,
        "biased": True,
    },
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RELEASED)
def test_the_released_routers(device, name, dtype):
    for rows in (0, 1, 33):
        check(route_case(rows, dtype, rows, **RELEASED[name]))


@given(st.data())
def test_random_routers(device, data):
    groups = data.draw(st.sampled_from((1, 1, 2, 3, 5)))
    experts = groups * data.draw(st.integers(2 if groups > 1 else 1, 40))
    top_groups = data.draw(st.integers(1, groups))
    args = route_case(
        data.draw(st.integers(0, 10**6)),
        data.draw(st.sampled_from(DTYPES)),
        data.draw(st.integers(0, 70)),
        experts,
        data.draw(st.booleans()),
        top_k=data.draw(st.integers(1, top_groups * (experts // groups))),
        score=data.draw(st.sampled_from(("softmax", "sigmoid"))),
        normalise=data.draw(st.booleans()),
        groups=groups,
        top_groups=top_groups,
        scaling=data.draw(st.sampled_from((1.0, 2.5, -0.5))),
    )
    args["logits"] = args["logits"].round(decimals=data.draw(st.sampled_from((0, 3))))
    gap = data.draw(st.integers(0, 3))
    guarded = Guarded()
    layout = data.draw(st.sampled_from(((0, 1), (1, 0))))
    placed = guarded.put_all(args, logits=(layout, gap), bias=((0,), gap))
    expert, _, order, offsets = call("route", placed)
    check_order(expert, order, offsets, experts)
    size = experts // groups
    assert all(len(set(row)) == len(row) for row in expert.tolist())
    assert all(len({e // size for e in row}) <= top_groups for row in expert.tolist())
    check(placed)
    guarded.check()


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_special_logits(device, score, groups, value):
    """Chosen experts are valid and distinct; the weights are what torch makes of such scores."""
    args = route_case(3, score=score, groups=groups, top_groups=min(groups, 2), normalise=True)
    args["logits"][1, 5] = value
    args["logits"][2] = value
    args["logits"][4, 3:] = value
    args["top_k"] = 3
    expert, weight, order, offsets = call("route", args)
    check_order(expert, order, offsets, 16)
    assert all(len(set(row)) == 3 and set(row) <= set(range(16)) for row in expert.tolist())
    wanted_expert, wanted, *_ = twin("route", args)
    assert torch.equal(expert, wanted_expert)
    torch.testing.assert_close(weight, wanted, equal_nan=True)
    if value != value:
        assert weight[[1, 2, 4]].isnan().all() and weight[[0, 3, 5]].isfinite().all()


def test_scores_that_vanish_keep_finite_weights(device):
    """Sigmoids of very negative logits are 0: their normalised weights are 0, not NaN."""
    args = {**PLAIN, "logits": torch.full((2, 8), -200.0), "score": "sigmoid", "normalise": True}
    assert call("route", args)[1].tolist() == [[0.0, 0.0]] * 2


def test_a_row_depends_on_nothing_else(device):
    args = route_case(2, rows=300, experts=64, top_k=8, groups=8, top_groups=4, biased=True)
    every = call("route", args)
    for i in (0, 17, 299):
        alone = call("route", {**args, "logits": args["logits"][i : i + 1]})
        assert_same_bits(alone[:2], tuple(t[i : i + 1] for t in every[:2]))
    with threads(1):
        one = call("route", args)
    with threads(2):
        assert_same_bits(call("route", args), one)


def test_what_int32_cannot_count_is_refused():
    """Up to the bound another argument is refused, for no memory holds such a result."""
    for rows, experts, top_k, argument in (
        (1, 2**31 - 32, 2, "bias"),
        (1, 2**31 - 31, 2, "logits"),
        (1, 2**31 - 1, 2, "logits"),
        (1, 2**33, 2, "logits"),
        (2**30 - 1, 4, 2, "bias"),
        (2**30, 4, 2, "logits"),
    ):
        found = "has shape" if argument == "bias" else f"= {max(rows, experts)}: expected "
        with pytest.raises(RuntimeError, match=f"argument '{argument}' {found}"):
            ops.route(torch.zeros(1, 1).expand(rows, experts), torch.zeros(3), top_k)
