"""BD3-LM's published sampler, token for token and pass for pass, with its own draws."""

import json
from operator import itemgetter

import pytest
import torch

import dpad
from tests.generation.common import GOLDEN
from tests.models.families import golden
from tests.models.test_bd3lm import Stock

pytestmark = pytest.mark.once

MASK_ID = 319
TRACES = json.loads((GOLDEN / "bd3lm.json").read_text())["traces"]
ID = itemgetter("id")


class Draws:
    """The random numbers of the published program: those of a step's tokens, then of its place."""

    def __init__(self, trace):
        self.block = trace["settings"]["block_size"]
        self.generator = torch.Generator().manual_seed(trace["settings"]["torch_seed"])
        self.total = 0.0

    def noise(self, rows, positions, vocab):
        u = torch.rand(1, self.block, vocab, dtype=torch.float64, generator=self.generator)
        self.total += float(u.sum())
        return -torch.log(1e-10 - torch.log(u[0, positions % self.block] + 1e-10))

    def place(self, rows, positions, eligible):
        chosen = torch.randint(0, int(eligible.sum()), (1,), generator=self.generator)
        found = torch.zeros(len(positions), dtype=torch.float64)
        found[eligible.nonzero()[chosen, 0]] = 1.0
        return found


def options(trace):
    """Our options for the reference's settings."""
    settings = trace["settings"]
    found = {
        "compatible": "bd3lm",
        "max_new_tokens": settings["length"] - 1,
        "block_length": settings["block_size"],
        "cache": settings["kv_cache"],
        "top_p": settings["nucleus_p"],
        "eos_token_id": trace["eos_id"],
        "early_stop": settings.get("var_length", False),
    }
    if settings["first_hitting"] and settings["num_steps"] > settings["block_size"]:
        return found
    steps = settings["num_steps"] * (settings["length"] // settings["block_size"])
    alg = "first_hitting" if settings["first_hitting"] else "ancestral"
    return {**found, "alg": alg, "steps": steps}


def replay(trace, model=None, **changes):
    draws = Draws(trace)
    model = model or golden("BD3LM", trace["model"])
    model.config.model_length = trace["settings"]["model_length"]
    chosen = {**options(trace), **changes}
    if chosen.get("alg") != "ancestral":
        chosen["confidences"] = draws.place
    out = dpad.generate(model, trace["prompt"], noise=draws.noise, trace=True, **chosen)
    assert draws.total == pytest.approx(trace["draw_sum"])
    found = [zip(e["positions"], e["tokens"], strict=True) for e in out.trace.events]
    found = [[[0, *pair] for pair in pairs] for pairs in found]
    wanted = [step["commit"] for step in trace["steps"]]
    assert [pairs for pairs in found if pairs] == [pairs for pairs in wanted if pairs]
    return out


@pytest.mark.parametrize("trace", TRACES, ids=ID)
def test_published_trace(trace):
    if trace["final"] is None:
        with pytest.raises(RuntimeError, match="row 0: the last 256 of 272 tokens .* rejects"):
            replay(trace)
        return
    out = replay(trace)
    found, final = out.sequences[0].tolist(), trace["final"][0]
    assert found[: len(final)] == final
    assert set(found[len(final) :]) <= {trace["eos_id"]}
    # A prediction that is used again is computed again here.
    again = sum(step["f"] == "reuse" for step in trace["steps"])
    assert out.forwards.tolist() == [trace["forwards"] + again]


@pytest.mark.parametrize("trace", [t for t in TRACES if t["settings"]["length"] < 64], ids=ID)
def test_published_trace_on_a_patched_model(trace):
    """One that attends by blocks with `sample_mode` only, as the released class does."""
    native = golden("BD3LM", trace["model"])
    model = Stock(native.config).eval()
    model.load_state_dict(native.state_dict())
    with dpad.patch(model) as handle:
        assert not handle.notes
        assert replay(trace, model).sequences[0].tolist() == trace["final"][0]


def generate(prompts, **changes):
    model = golden("BD3LM", "bd3lm")
    model.config.model_length = 32
    options = {"compatible": "bd3lm", "max_new_tokens": 59, "eos_token_id": 300, "seed": 4}
    return dpad.generate(model, prompts, return_dict_in_generate=True, **{**options, **changes})


@pytest.mark.parametrize("cache", ["none", "prefix"])
@pytest.mark.parametrize("rule", [{}, {"alg": "ancestral", "steps": 51}])
def test_a_row_of_a_batch_is_as_it_is_alone(rule, cache):
    """Each forgets at its own time, prompts that are longer than the model too."""
    prompts = [list(range(20, 20 + count)) for count in (1, 10, 42)]
    if rule:
        prompts = prompts[:2]
    given = {**rule, "cache": cache}
    together = generate(prompts, **given)
    for row, prompt in enumerate(prompts):
        alone = generate([prompt], row_keys=[row], **given)
        width = len(prompt) + 59
        found = together.sequences[row, max(map(len, prompts)) - len(prompt) :][:width]
        assert found.tolist() == alone.sequences[0, :width].tolist()
        assert together.forwards[row] == alone.forwards[0]


def test_what_is_forgotten_is_not_looked_at():
    """Prompts that differ only before the model's positions give the same text."""
    long = list(range(20, 60))
    other = [7] * 8 + long[8:]
    for cache in ("none", "prefix"):
        texts = [generate([p], cache=cache).sequences[0, 40:].tolist() for p in (long, other)]
        assert texts[0] == texts[1]
    near = generate([[*long[:20], 7, *long[21:]]]).sequences[0, 40:].tolist()
    assert near != texts[0]


@pytest.mark.parametrize(
    "options, match",
    [
        ({"alg": "entropy"}, "alg = 'entropy' and compatible = 'bd3lm'"),
        ({"confidence_threshold": 0.9}, "first_hitting"),
        ({"remask": "cap", "alg": "ancestral"}, "remask"),
        ({"temperature": 0.0}, "temperature"),
        ({"steps": 50, "cache": "prefix"}, "steps = 50 with 8 blocks of 8"),
        ({"steps": 7 * 8, "cache": "prefix"}, "steps = 56 .* leave masks in all or none"),
        ({"block_length": 5}, "block_length = 5: .* 32 positions"),
    ],
)
def test_what_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        generate([[300]], **{"block_length": 8, **options})
