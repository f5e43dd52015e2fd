"""Ancestral sampling, masking again and first hitting against plain restatements."""

import pytest
import torch

import dpad
from tests.doubles import ancestral_sampler as plain
from tests.generation import test_block_decoding as blocks
from tests.generation.common import DREAM, EOS_ID, MASK_ID, assert_replayed_as_eager, pad

pytestmark = pytest.mark.once

NEW, BLOCK = 20, 8
ENDS = list(range(5, 290, 16))
MASKS = {"llada": MASK_ID, "dream": DREAM["mask_id"]}
FULL = {"suffix": "all", "cache": "none", "early_stop": False, "seed": 3, "temperature": 1.0}
HOW = {
    "ancestral": None,
    "cap": dpad.Remask("cap", eta=0.3),
    "rescale": dpad.Remask("rescale", eta=0.3),
    "conf": dpad.Remask("conf"),
    "loop": dpad.Remask("loop", eta=0.2, t_on=0.7, t_off=0.2, alpha_on=0.8),
    "forward-backward": dpad.Remask("forward-backward"),
}


def rule_of(name):
    return {"alg": "ancestral"} if HOW[name] is None else {"remask": HOW[name]}


def uniform(row, forward, position, vocab):
    generator = torch.Generator().manual_seed(hash((row, forward, position)) % 2**32)
    return torch.rand(vocab, generator=generator, dtype=torch.float64)


class Draws:
    """Gumbel noise of a position in a forward of one row, as the plain samplers draw it."""

    def __init__(self, row):
        self.row, self.forward = row, -1

    def __call__(self, rows, positions, vocab):
        self.forward += 1
        u = torch.stack([uniform(self.row, self.forward, p, vocab) for p in positions.tolist()])
        return -torch.log(1e-10 - torch.log(u + 1e-10))


def generate(model, prompts, **options):
    batch = dict(zip(("input_ids", "attention_mask"), pad(prompts, "left"), strict=True))
    options = {"max_new_tokens": NEW, "block_length": BLOCK, **options}
    return dpad.generate(model, **batch, return_dict_in_generate=True, **options)


def answers(out):
    return out.sequences[:, -NEW:].tolist()


def shown(tokens, name):
    """What a result shows: padding behind the first end id."""
    end = EOS_ID if name == "llada" else DREAM["eos_id"]
    first = tokens.index(end) if end in tokens else NEW
    return [token if i <= first else end for i, token in enumerate(tokens)]


@pytest.mark.parametrize("steps", [6, 20, 48])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("how", HOW)
def test_tokens_of_the_plain_sampler(request, prompts, how, name, steps):
    model, again = request.getfixturevalue(name), False
    each = dpad.ops.transfer_schedule(steps, 3).tolist()
    for row, prompt in enumerate(prompts[:3]):
        out = generate(
            model, [prompt], noise=Draws(row), top_p=0.9, steps=steps, **rule_of(how), **FULL
        )
        tokens, masked_again = plain.decode(
            model, prompt, HOW[how], lambda *at, row=row: uniform(row, *at),
            new=NEW, block=BLOCK, steps=each, mask_id=MASKS[name], shift=int(name == "dream"),
            top_p=0.9,
        )  # fmt: skip
        assert answers(out)[0] == shown(tokens, name)
        again |= masked_again
    assert again == (how != "ancestral") or steps == 6


@pytest.mark.parametrize("how", ["ancestral", "cap", "conf"])
def test_an_end_counts_where_it_stands_at_the_end_of_its_block(llada, prompts, how):
    """Many an end id is masked again before its block is done; what is behind goes on then."""
    ended = going_on = 0
    for row in range(12):
        options = {**FULL, "early_stop": True, "temperature": 4.0, "eos_token_id": ENDS}
        out = generate(llada, [prompts[0]], noise=Draws(row), steps=12, trace=True, **rule_of(how),
                       **options)  # fmt: skip
        tokens, _ = plain.decode(
            llada, prompts[0], HOW[how], lambda *at, row=row: uniform(row, *at), new=NEW,
            block=BLOCK, steps=[4, 4, 4], mask_id=MASK_ID, temperature=4.0, ends=ENDS,
        )  # fmt: skip
        found = [i for i, token in enumerate(tokens) if token in ENDS]
        cut = found[0] + 1 if found else NEW
        assert answers(out)[0][:cut] == tokens[:cut]
        assert out.finish_reason == ["stop" if found else "length"]
        pad_id = llada.config.pad_token_id
        assert all(t == pad_id for t in answers(out)[0][cut:])
        ended, going_on = ended + (cut <= 16), going_on + (cut == NEW)
    assert ended and going_on


@pytest.mark.parametrize("kind", ["cap", "rescale"])
def test_without_eta_it_is_ancestral(model, prompts, kind):
    """In one block; the next one of several begins at another forward, with other draws."""
    options = {**FULL, "top_p": 0.9, "steps": 24, "block_length": NEW}
    remasked = generate(model, prompts, remask=dpad.Remask(kind, eta=0), **options)
    assert answers(remasked) == answers(generate(model, prompts, alg="ancestral", **options))
    assert remasked.forwards.min() >= 24  # what is committed could still be masked


@pytest.mark.parametrize("name", MASKS)
def test_first_hitting_is_the_plain_one(request, prompts, name):
    model, shift = request.getfixturevalue(name), int(name == "dream")
    chosen = lambda forward, j: (forward * 7919 + j * 104729) % 1000003 / 1000003  # noqa: E731
    for row, prompt in enumerate(prompts[:3]):
        draws = Draws(row)

        def order(rows, positions, eligible, draws=draws):
            return torch.tensor([chosen(draws.forward, j) for j in positions.tolist()]).double()

        given = {"noise": draws, "confidences": order, "top_p": 0.8}
        out = generate(model, [prompt], alg="first_hitting", **given, **FULL)
        tokens = plain.first_hitting(
            model, prompt, lambda *at, row=row: uniform(row, *at), chosen, new=NEW, block=BLOCK,
            mask_id=MASKS[name], shift=shift, top_p=0.8,
        )  # fmt: skip
        assert answers(out)[0] == shown(tokens, name) and out.forwards.tolist() == [NEW]


def test_first_hitting_takes_any_mask(llada, prompts):
    """Each of the 8 places is first about as often, whatever the model is sure of."""
    rows = [prompts[0]] * 400
    out = generate(llada, rows, alg="first_hitting", max_new_tokens=8, trace=True, **FULL)
    first = torch.zeros(8)
    for event in out.trace.events:
        if event["forward"] == 0:
            first[event["positions"][0] - len(prompts[0])] += 1
    assert ((first - 50) ** 2 / 50).sum() < 24.3  # chi squared of 7 degrees, one in a thousand


@pytest.mark.parametrize("steps", [4, 16])
def test_masks_are_left_as_the_times_say(llada, prompts, steps):
    """After step i a mask is left with probability t_i, whatever the model says."""
    rows, n = [prompts[0]] * 300, 8
    out = generate(llada, rows, alg="ancestral", steps=steps, max_new_tokens=n, trace=True, **FULL)
    forwards = torch.tensor([
        e["forward"] for e in out.trace.events for _ in e["positions"]
    ])  # fmt: skip
    for i in range(1, steps):
        share = float((forwards >= i).double().mean())
        assert abs(share - (1 - i / steps)) < 4 * (0.25 / len(forwards)) ** 0.5


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("how", [*HOW, "first_hitting"])
def test_alone_as_in_a_batch_and_an_engine(model, prompts, how, cache):
    rule = {"alg": how} if how == "first_hitting" else {**rule_of(how), "steps": 12}
    suffix = dpad.Suffix("gaussian", window=8, density=0.4)
    options = {**FULL, **rule, "cache": cache, "suffix": suffix, "top_p": 0.9, "early_stop": True}
    options |= {"dual": {"cfg_scale": 0.7}, "prefix": {"refresh": "recent"}}.get(cache, {})
    together = generate(model, prompts, **options)
    with dpad.Engine(model, max_sequences=3) as engine:
        fixed = {"max_new_tokens": NEW, "block_length": BLOCK, **options}
        requests = [engine.submit(p, row_key=i, **fixed) for i, p in enumerate(prompts)]
        for row, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
            alone = generate(model, [prompt], row_keys=[row], **options)
            assert answers(request.result()) == answers(alone)
            assert answers(together)[row] == answers(alone)[0]
            assert torch.equal(request.result().forwards, alone.forwards)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("how", HOW)
def test_replayed_as_eager(monkeypatch, llada, prompts, how, cache):
    options = {**FULL, **rule_of(how), "cache": cache, "top_p": 0.9, "steps": 12}
    assert_replayed_as_eager(monkeypatch, llada, prompts, generate, options)


@pytest.mark.parametrize("family", blocks.KINDS)
@pytest.mark.parametrize("how", HOW)
def test_block_causal_models_with_and_without_a_cache(family, how):
    model, prompts = blocks.load(family), [[5, 17, 99], [3, 250, 7, 8, 21, 90]]
    fixed = {"block_length": 4, "mask_token_id": blocks.MASK_ID, "temperature": 1.0, "top_p": 0.9}
    fixed |= {**rule_of(how), "seed": 5, "early_stop": False}
    plain = generate(model, prompts, **fixed, cache="none")
    cached = generate(model, prompts, **fixed, cache="prefix")
    assert answers(plain) == answers(cached)
    assert blocks.MASK_ID not in sum(answers(plain), [])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"remask": "nothing"}, ("Remask.kind = 'nothing'", "cap")),
        ({"remask": {"kind": "conf", "eta": 0.1}}, ("Remask.eta = 0.1", "'conf'")),
        ({"remask": {"kind": "loop", "t_on": 0.01}}, ("Remask.t_on", "t_off = 0.05")),
        ({"remask": "cap", "alg": "entropy"}, ("remask = Remask", "alg = 'entropy'")),
        ({"remask": "cap", "factor": 1.0}, ("remask = Remask", "factor = 1.0")),
        ({"remask": "cap", "length": "daedal"}, ("remask = Remask", "length = Daedal")),
        ({"remask": "cap", "compatible": "llada"}, ("remask", "'llada'")),
        ({"remask": "cap", "remasking": "random"}, ("remask", "remasking = 'random'")),
        ({"alg": "ancestral", "commit": "klass"}, ("ancestral", "commit")),
        ({"alg": "first_hitting", "steps": 4}, ("first_hitting", "steps = 4")),
        ({"alg": "first_hitting", "confidence_threshold": 0.9}, ("first_hitting", "0.9")),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError) as caught:
        dpad.DPadGenerationConfig(**options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_what_a_call_cannot_do_is_refused(llada, prompts):
    cold = {**FULL, "temperature": 0.0}
    for rule in ({"alg": "ancestral"}, {"alg": "first_hitting"}, {"remask": "cap"}):
        with pytest.raises(ValueError, match="temperature = 0: it draws tokens"):
            generate(llada, prompts, **rule, **cold)
    with pytest.raises(ValueError, match="confidences is given and remask = Remask"):
        generate(llada, prompts, remask="cap", confidences=lambda *_: None, **FULL)


def test_options_are_kept():
    config = dpad.DPadGenerationConfig(remask=dpad.Remask("cap"), temperature=1.0)
    assert config.to_diff_dict()["remask"] == {"kind": "cap", "eta": 0.008}
    assert dpad.DPadGenerationConfig(**config.to_diff_dict()) == config


@pytest.mark.parametrize("how", ["ancestral", "first_hitting"])
def test_gaps_behind_a_prompt_are_an_answer(llada, prompts, how):
    given = {"alg": how, "top_p": 0.9, "block_length": BLOCK, **FULL}
    text = [*prompts[0], *[MASK_ID] * NEW]
    out = answers(generate(llada, prompts[:1], **given))[0]
    assert dpad.generate(llada, [text], infill=True, **given)[0, -NEW:].tolist() == out
    text[len(prompts[0]) + 3] = 77
    filled = dpad.generate(llada, [text], infill=True, **given)[0].tolist()
    assert filled[len(prompts[0]) + 3] == 77 and MASK_ID not in filled


def test_first_hitting_in_an_answer_that_grows(llada, prompts):
    given = {"alg": "first_hitting", "length": dpad.Daedal(8, low_confidence=0.1), **FULL}
    given |= {"max_new_tokens": 40, "eos_token_id": ENDS}
    together = generate(llada, prompts, **given)
    width = together.sequences.shape[1]
    for row, prompt in enumerate(prompts):
        alone = generate(llada, [prompt], row_keys=[row], **given)
        assert int(alone.forwards[0]) == int(together.forwards[row])
        answer = alone.sequences[0, len(prompt) :]
        begin = max(map(len, prompts))
        assert torch.equal(together.sequences[row, begin : begin + len(answer)], answer)
        assert width >= begin + len(answer)
