"""Dream's samplers against a plain restatement, with the same noise and draws."""

import pytest
import torch

import dpad
from tests.generation.common import DREAM

pytestmark = pytest.mark.once

MASK_ID, VOCAB, NEW = DREAM["mask_id"], DREAM["config"]["vocab_size"], 16
PROMPT = [5, 17, 99, 3, 250]


def noise_of(positions):
    """Gumbel noise keyed by position only, so that both sides see the same."""
    rows = []
    for p in positions.tolist():
        u = torch.rand(VOCAB, generator=torch.Generator().manual_seed(p), dtype=torch.float64)
        rows.append(-torch.log(-torch.log(u)))
    return torch.stack(rows)


def filtered(logits, temperature, top_p, top_k):
    """Temperature, nucleus, k best."""
    if temperature:
        logits = logits / temperature
    if top_p is not None:
        ordered, ids = logits.sort(-1, descending=True)
        mass = ordered.softmax(-1).cumsum(-1)
        drop = torch.cat((torch.zeros_like(mass[:, :1]), mass[:, :-1]), -1) > top_p
        logits = logits.masked_fill(drop.gather(-1, ids.argsort(-1)), float("-inf"))
    if top_k is not None:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], float("-inf"))
    return logits


def plain(model, steps, alg, temperature=0.0, top_p=None, top_k=None, draws=None):
    """Dream's sampler for one row; `draws(step, positions)` uniform numbers for "origin"."""
    canvas = torch.tensor([PROMPT + [MASK_ID] * NEW])
    times = torch.linspace(1, 1e-3, steps + 1)
    for i in range(steps):
        where = (canvas[0] == MASK_ID).nonzero()[:, 0]
        if not where.numel():
            break
        with torch.no_grad():
            logits = model(canvas).logits[0, where - 1].double()
        logits = filtered(logits, temperature, top_p, top_k)
        p = logits.softmax(-1)
        chosen = logits + noise_of(where) if temperature else logits.clone()
        chosen[:, MASK_ID] = float("-inf")
        token = chosen.argmax(-1)
        share = float(1 - times[i + 1] / times[i])
        if alg == "origin":
            taken = draws(i, where) < (share if i < steps - 1 else 2.0)
        else:
            two = p.topk(2).values
            score = {
                "maskgit_plus": p.gather(1, token[:, None])[:, 0],
                "topk_margin": two[:, 0] - two[:, 1],
                "entropy": -torch.special.entr(p).sum(-1),
            }[alg]
            quota = (
                len(where) if i == steps - 1 else int(len(where) * (1 - times[i + 1] / times[i]))
            )
            taken = torch.zeros(len(where), dtype=torch.bool)
            taken[score.argsort(descending=True, stable=True)[:quota]] = True
        canvas[0, where[taken]] = token[taken]
    return canvas


def draw(step, positions):
    return torch.stack(
        [torch.rand((), generator=torch.Generator().manual_seed(1000 * step + int(p)))
         for p in positions]
    ).double()  # fmt: skip


@pytest.mark.parametrize("alg", ["origin", "maskgit_plus", "topk_margin", "entropy"])
@pytest.mark.parametrize("steps", [5, 16, 40])
@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"top_k": 4},
        {"temperature": 0.7},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 0.4, "top_p": 0.95, "top_k": 7},
    ],
)
def test_samplers_equal_the_plain_one(dream, alg, steps, sampling):
    expected = plain(dream, steps, alg, draws=draw, **sampling)
    count = iter(range(10**6))

    def confidences(rows, positions, eligible):
        out = torch.zeros(positions.shape[0], dtype=torch.float64)
        out[eligible] = draw(next(count), positions[eligible])
        return out

    out = dpad.generate(
        dream,
        [PROMPT],
        compatible="dream",
        max_new_tokens=NEW,
        steps=steps,
        alg=alg,
        noise=lambda rows, positions, vocab: noise_of(positions),
        confidences=confidences if alg == "origin" else None,
        **sampling,
    )
    assert out.tolist() == expected.tolist()


@pytest.mark.parametrize("model", ["llada", "dream"])
@pytest.mark.parametrize("alg", ["origin", "maskgit_plus", "entropy"])
def test_samplers_serve_every_family_cache_and_batch(request, model, alg):
    """Blocks, caches, ragged batches: each row is what it is alone, and no mask is left."""
    model = request.getfixturevalue(model)
    prompts = torch.tensor([PROMPT, PROMPT[::-1]])
    options = {"max_new_tokens": NEW, "block_length": 8, "steps": 8, "alg": alg, "seed": 3}
    options |= {"temperature": 0.8, "top_p": 0.9, "early_stop": False, "row_keys": [4, 9]}
    for cache in ("none", "prefix", "dual"):
        out = dpad.generate(model, prompts, cache=cache, **options)
        assert not (out == MASK_ID).any()
        second = {**options, "row_keys": [9]}
        assert torch.equal(dpad.generate(model, prompts[1:], cache=cache, **second)[0], out[1])


@pytest.mark.slow(reason="a distribution, from 3,000 decodings")
def test_alg_temp_draws_positions_without_replacement(dream):
    """One token per step: how often each position comes first is softmax(score / alg_temp)."""
    runs, options = 3000, {"max_new_tokens": 4, "steps": 4, "alg": "maskgit_plus"}
    out = dpad.generate(
        dream,
        torch.tensor([PROMPT] * runs),
        compatible="dream",
        block_length=4,
        cache="none",
        alg_temp=0.2,
        seed=11,
        trace=True,
        **options,
    )
    first = torch.zeros(4)
    scores = torch.zeros(4, dtype=torch.float64)
    with torch.no_grad():
        logits = dream(torch.tensor([PROMPT + [MASK_ID] * 4])).logits[0, 4:8].double()
    scores = logits.softmax(-1).amax(-1)
    seen = set()
    for event in out.trace.events:
        if event["positions"] and event["row"] not in seen:
            seen.add(event["row"])
            assert len(event["positions"]) == 1
            first[event["positions"][0] - len(PROMPT)] += 1
    wanted = (scores / 0.2).softmax(-1)
    error = (wanted * (1 - wanted) / runs).sqrt()
    assert ((first / runs - wanted).abs() < 4.5 * error).all(), (first / runs, wanted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_p": 0.0}, "top_p = 0.0"),
        ({"top_p": 1.2}, "top_p = 1.2"),
        ({"top_k": 0}, "top_k = 0"),
        ({"top_k": 2.5}, "top_k = 2.5"),
        ({"alg_temp": -1.0}, "alg_temp = -1.0"),
        ({"eps": 0.0}, "eps = 0.0"),
        ({"alg": "best"}, "alg = 'best'"),
        ({"alg": "origin"}, "alg = 'origin' needs steps"),
        ({"alg": "confidence_threshold"}, "needs confidence_threshold"),
        ({"alg": "origin", "threshold": 0.9}, "alg = 'origin' and confidence_threshold = 0.9"),
        ({"alg": "entropy", "factor": 1.0}, "alg = 'entropy' and factor = 1.0"),
        ({"alg_temp": 0.5, "threshold": 0.9}, "alg_temp = 0.5"),
        ({"alg_temp": 0.5, "alg": "origin", "steps": 8}, "alg_temp = 0.5"),
        ({"remasking": "random", "alg": "entropy"}, "remasking = 'random'"),
        ({"steps": 8, "threshold": 0.9}, "steps = 8, confidence_threshold = 0.9"),
        ({"alg": "confidence_threshold", "steps": 5, "threshold": 0.9, "block_length": 16},
         "steps = 5"),
        ({"steps": 1, "block_length": 8}, "steps = 1"),
    ],
)  # fmt: skip
def test_bad_options_are_named(dream, options, words):
    with pytest.raises(ValueError) as error:
        dpad.generate(dream, [PROMPT], max_new_tokens=NEW, **options)
    assert words in str(error.value)


DREAM_MODES = ("dream", "dream-transformers-4", "fast-dllm-dream", "dpad-dream")
LLADA_MODES = ("llada", "fast-dllm-llada", "dpad-llada")
FILTERS = ({}, {"top_p": 0.7}, {"top_k": 6}, {"top_p": 0.9, "top_k": 9})


def in_blocks(model, shift, width, threshold, temperature, top_p=None, top_k=None):
    """A threshold in blocks over the whole canvas, without a cache, for one row.

    Fast-dLLM and DPad: on Dream the confidence is that of the filtered, tempered distribution, on
    LLaDA that of the logits.
    """
    canvas, forwards = torch.tensor([PROMPT + [MASK_ID] * NEW]), 0
    for end in range(len(PROMPT) + width, len(PROMPT) + NEW + 1, width):
        while (canvas[0, :end] == MASK_ID).any():
            where = (canvas[0, :end] == MASK_ID).nonzero()[:, 0]
            with torch.no_grad():
                logits = model(canvas).logits[0, where - shift].double()
            forwards += 1
            scored = filtered(logits, temperature, top_p, top_k) if shift else logits
            p = scored.softmax(-1)
            chosen = scored + noise_of(where) if shift else logits + temperature * noise_of(where)
            chosen[:, MASK_ID] = float("-inf")
            token = chosen.argmax(-1)
            score = p.gather(1, token[:, None])[:, 0]
            taken = score >= threshold
            taken[score.argmax()] = True
            canvas[0, where[taken]] = token[taken]
    return canvas, forwards


@pytest.mark.parametrize("mode", [*DREAM_MODES[2:], *LLADA_MODES])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("filters", FILTERS)
def test_thresholds_at_a_temperature_are_the_published_ones(request, mode, temperature, filters):
    shift = int("dream" in mode)
    if filters and not shift:
        pytest.skip("LLaDA's decoders have no filters")
    model = request.getfixturevalue("dream" if shift else "llada")
    wanted, forwards = in_blocks(model, shift, 8, 0.5, temperature, **filters)
    out = dpad.generate(
        model,
        [PROMPT],
        compatible=mode,
        suffix=dpad.Suffix("all"),
        early_stop=False,
        max_new_tokens=NEW,
        block_length=8,
        threshold=0.5,
        temperature=temperature,
        noise=lambda rows, positions, vocab: noise_of(positions),
        return_dict_in_generate=True,
        **filters,
    )
    assert out.sequences.tolist() == wanted.tolist()
    assert int(out.forwards) == forwards


RULES = ({"threshold": 0.9}, {"steps": 8}, {"steps": 8, "alg": "entropy"})


@pytest.mark.parametrize("mode", DREAM_MODES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cache", ["none", "dual"])
def test_a_filter_that_keeps_everything_changes_nothing(dream, mode, rule, cache):
    options = {"max_new_tokens": 32, "block_length": 16, "temperature": 3.0, "seed": 0, **rule}
    options |= {"compatible": mode, "suffix": dpad.Suffix("all"), "cache": cache}
    options |= {"early_stop": False, "return_dict_in_generate": True}
    if "threshold" in rule and mode in DREAM_MODES[:2]:  # it goes with steps on the whole canvas
        options |= {"alg": "confidence_threshold", "steps": 8}
    if mode == "dream-transformers-4":
        options["top_k"] = 10**6  # its own default keeps 50
    found = [dpad.generate(dream, [PROMPT], top_p=p, **options) for p in (0.99999999, 1.0)]
    found.append(dpad.generate(dream, [PROMPT], **options))
    assert len({int(out.forwards) for out in found}) == 1
    for out in found[1:]:
        assert torch.equal(out.sequences, found[0].sequences)


def test_a_hot_threshold_takes_a_forward_per_token():
    """The tiny Dream at temperature 3: hardly any probability is above 0.9."""
    model, _ = dpad.demo.load(name="tiny_dream")
    ids = [dpad.demo.problems(1, seed=0)[0].prompt_ids]
    options = {"compatible": "dpad-dream", "suffix": dpad.Suffix("all"), "cache": "none"}
    options |= {"max_new_tokens": 32, "block_length": 16, "temperature": 3.0, "threshold": 0.9}
    options |= {"seed": 0, "return_dict_in_generate": True}
    forwards = {int(dpad.generate(model, ids, top_p=p, **options).forwards) for p in (None, 1.0)}
    assert forwards == {20}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_llada_leaves_only_end_of_turn_out_while_it_samples(llada, temperature):
    """`confidence_eos_eot_inf` of its released sampler: two ids when greedy, else the second."""
    ends = [11, 40]
    excluded = ends[1:] if temperature else ends
    seen = []

    def noise(rows, positions, vocab):
        return noise_of(positions)

    def confidences(model, step, timestep, tensors):
        seen.append(tensors["confidence"][0])

    dpad.generate(
        llada,
        [PROMPT],
        compatible="llada",
        max_new_tokens=8,
        block_length=8,
        steps=8,
        eos_token_id=ends,
        confidence_eos_eot_inf=True,
        temperature=temperature,
        noise=noise,
        callback_on_step_end=confidences,
        callback_on_step_end_tensor_inputs=["confidence"],
    )
    canvas = torch.tensor([PROMPT + [MASK_ID] * 8])
    with torch.no_grad():
        logits = llada(canvas).logits[0, len(PROMPT) :].double()
    chosen = logits + temperature * noise_of(torch.arange(len(PROMPT), len(PROMPT) + 8))
    chosen[:, MASK_ID] = float("-inf")
    logits[:, excluded] = float("-inf")
    wanted = logits.softmax(-1).gather(1, chosen.argmax(-1)[:, None])[:, 0]
    assert torch.allclose(seen[0], wanted, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("limit", [{"top_k": 1}, {"top_p": 1e-6}])
def test_end_ids_alone_behind_a_filter_have_no_confidence(llada, temperature, limit):
    """`confidence_eos_eot_inf` leaves nothing of such a row to its soft-max."""
    ends = list(range(VOCAB // 2))
    out = dpad.generate(
        llada,
        [PROMPT],
        max_new_tokens=16,
        block_length=8,
        steps=16,
        seed=0,
        early_stop=False,
        eos_token_id=ends,
        confidence_eos_eot_inf=True,
        temperature=temperature,
        trace=True,
        **limit,
    )
    tokens, confidences = (
        [value for event in out.trace.events for value in event[name]]
        for name in ("tokens", "confidence")
    )
    of_ends = [c for token, c in zip(tokens, confidences, strict=True) if token in ends]
    assert len(tokens) == 16 and of_ends and not any(of_ends)
