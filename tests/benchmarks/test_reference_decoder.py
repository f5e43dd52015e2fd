"""The reference decoders against the published traces, and dpad against the reference decoders."""

import itertools

import pytest
import torch
from safetensors.torch import load_file

import dpad
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM
from tests.doubles import remote
from tests.doubles.plain_llada import PlainLLaDA
from tests.doubles.reference_decoder import choose, linear_schedule, ordinary, reference
from tests.generation.common import GOLDEN, MASK_ID, META
from tests.generation.test_golden import commits_of_reference, traces


@pytest.fixture(scope="module")
def llada():
    model = LLaDAModelLM(LLaDAConfig(**META["config"])).float().eval()
    model.load_state_dict(
        {k: v.float() for k, v in load_file(GOLDEN / "llada_mha.safetensors").items()}
    )
    return model


@pytest.fixture
def ids():
    return torch.randint(0, 290, (4, 11), generator=torch.Generator().manual_seed(4))


def commits(out, prompt):
    """Per row, per forward: sorted [position, token]."""
    rows = {}
    for row, (at, tokens) in enumerate(zip(out.committed_at, out.tokens, strict=True)):
        for forward in range(int(out.forwards[row])):
            where = (at == forward).nonzero()[:, 0].tolist()
            rows.setdefault(row, []).append([[p, int(tokens[p])] for p in where])
    return rows


def restated(parameters):
    """Whether a trace is of a rule that is restated: no guidance, no random remasking."""
    settings = parameters.values[0]["settings"]
    return not settings.get("cfg_scale") and settings.get("remasking") != "random"


@pytest.mark.parametrize("trace", filter(restated, traces("llada")))
def test_published_trace(llada, trace):
    settings = trace["settings"]
    ids, rule = torch.tensor(trace["prompt"]), ("quota", settings.get("steps"))
    for name in ("threshold", "factor"):
        if settings.get(name) is not None:
            rule = (name if name == "threshold" else "factor_published", settings[name])
    given = {"mask_id": MASK_ID, "block_length": settings["block_length"]}
    if trace["suite"] == "llada":
        mask = trace["attention_mask"] and torch.tensor(trace["attention_mask"])
        out = ordinary(
            llada, ids, settings["gen_length"], steps=rule[1], attention_mask=mask, **given
        )
    else:
        kept = trace["kept"] and (lambda b: torch.tensor(trace["kept"][b], dtype=torch.int64))
        ends = (trace["eos_id"],) if settings.get("early_termination") else ()
        cache = settings.get("mode") or "none"
        options = {"rule": rule, "kept": kept, "cache": cache, "end_ids": ends}
        out = reference(llada, ids, settings["gen_length"], **options, **given)
    assert out.tokens.tolist() == trace["final"]
    assert int(out.forwards.max()) == trace["forwards"] - trace["idle_forwards"]
    assert commits(out, ids.shape[1]) == commits_of_reference(trace)


CASES = itertools.product(
    (("threshold", 0.5), ("factor", 1.0), ("quota", 12), ("quota", None)),
    (dpad.Suffix("all"), dpad.Suffix("none"), dpad.Suffix("gaussian", window=24, near=3)),
    ("none", "prefix", "dual"),
    (False, True),
)


@pytest.mark.parametrize(("rule", "suffix", "cache", "stop"), CASES)
def test_dpad_makes_the_reference_s_decisions(llada, ids, rule, suffix, cache, stop):
    name = {"threshold": "confidence_threshold", "factor": "factor", "quota": "steps"}[rule[0]]
    rule_options = {name: 36 if rule[1] is None else rule[1]}
    end = 87  # an id that this model produces within a block or two
    out = dpad.generate(
        llada,
        ids,
        max_new_tokens=36,
        block_length=12,
        suffix=suffix,
        cache=cache,
        early_stop=stop,
        seed=9,
        row_keys=[5] * len(ids),
        mask_token_id=MASK_ID,
        eos_token_id=end,
        compatible="fast-dllm-llada",
        return_dict_in_generate=True,
        **rule_options,
    )
    longest = max(out.kept_suffix, key=len)
    want = reference(
        llada,
        ids,
        36,
        mask_id=MASK_ID,
        block_length=12,
        rule=("factor_published", rule[1]) if rule[0] == "factor" else rule,
        kept=lambda block: longest[block],
        cache=cache,
        end_ids=(end,) if stop else (),
    )
    assert out.sequences.equal(want.tokens)
    assert out.forwards.equal(want.forwards)
    computed = out.timings["positions"]
    assert computed == want.positions


def test_some_of_those_cases_stop_early(llada, ids):
    """Else the comparison above would not cover the early stop."""
    given = {"mask_id": MASK_ID, "block_length": 12, "rule": ("threshold", 0.5)}
    out = reference(llada, ids, 36, end_ids=(87,), **given)
    free = reference(llada, ids, 36, **given)
    assert 0 < (out.forwards < free.forwards).sum() < len(ids)


def test_batch_is_its_rows(llada, ids):
    given = {"mask_id": MASK_ID, "block_length": 8, "rule": ("threshold", 0.4), "cache": "dual"}
    whole = reference(llada, ids, 20, **given)
    rows = [reference(llada, row[None], 20, **given) for row in ids]
    assert whole.tokens.equal(torch.cat([r.tokens for r in rows]))
    assert whole.positions == sum(r.positions for r in rows)
    assert whole.forwards.tolist() == [int(r.forwards) for r in rows]


def test_kept_sets_may_differ_by_row(llada, ids):
    given = {"mask_id": MASK_ID, "block_length": 8, "rule": ("threshold", 0.4), "cache": "prefix"}
    sets = torch.tensor([[20, 21, 30], [22, 25, 26], [20, 27, 30], [19, 20, 21]])
    none = torch.zeros(4, 0, dtype=torch.int64)

    def kept(rows):
        return lambda block: (sets if block == 0 else none)[rows]

    whole = reference(llada, ids, 20, kept=kept(slice(None)), **given)
    for row in range(4):
        one = reference(llada, ids[row : row + 1], 20, kept=kept([row]), **given)
        assert one.tokens.equal(whole.tokens[row : row + 1])


@pytest.mark.parametrize(
    "changes",
    ({}, {"n_kv_heads": 2, "weight_tying": True, "scale_logits": True, "include_qkv_bias": True}),
    ids=("published", "others"),
)
def test_plain_forward_is_the_model_s(changes, ids):
    torch.manual_seed(0)
    model = remote.llada_model({**META["config"], **changes})
    with torch.inference_mode():
        want = model(ids).logits
        plain = PlainLLaDA(model)
        hidden, present = plain(ids, torch.arange(11))
        torch.testing.assert_close(plain.head(hidden), want)
        behind, _ = plain(
            ids[:, 6:], torch.arange(6, 11), [(k[:, :, :6], v[:, :, :6]) for k, v in present]
        )
        inside, _ = plain(ids[:, 4:7], torch.arange(4, 7), present, at=4)
        torch.testing.assert_close(plain.head(behind), want[:, 6:])
        torch.testing.assert_close(plain.head(inside), want[:, 4:7])


def test_head_on_the_block_only_changes_nothing(llada, ids):
    given = {"mask_id": MASK_ID, "block_length": 8, "rule": ("threshold", 0.4)}
    all_, block = (reference(llada, ids, 16, head=head, **given) for head in ("all", "block"))
    assert all_.tokens.equal(block.tokens)


def test_factor_rule_and_its_published_quirk():
    scores = torch.tensor([0.99, 0.98, 0.90, 0.60])
    logits = torch.full((1, 4, 41), -torch.inf)
    logits[0, :, 0], logits[0, :, 1] = scores.log(), (1 - scores).log()
    open_ = torch.ones(1, 4, dtype=torch.bool)
    for name, count in (("factor", 3), ("factor_published", 4)):
        _, taken = choose(logits.clone(), open_, (name, 1.0), 0, 40)
        assert taken.sum() == count


def test_linear_schedule():
    assert linear_schedule(32, 10) == [4, 4, 3, 3, 3, 3, 3, 3, 3, 3]
    assert sum(linear_schedule(5, 8)) == 5


@pytest.mark.parametrize(
    ("change", "text"),
    (
        ({"rule": ("best", 1)}, "best"),
        ({"cache": "triple"}, "triple"),
        ({"head": "half"}, "half"),
        ({"block_length": 0}, "block_length = 0"),
    ),
)
def test_bad_arguments(llada, ids, change, text):
    given = {"mask_id": MASK_ID, "rule": ("threshold", 0.9), **change}
    with pytest.raises(ValueError, match=text):
        reference(llada, ids, 8, **given)
