"""Block-causal steps that are captured and replayed: the tokens of eager ones, and the traces'."""

import pytest
import torch

import dpad
from dpad.decode import graphs
from tests.doubles.pretended_cuda import pretended_cuda
from tests.doubles.recorded_calls import RecordedCalls
from tests.generation import test_block_decoding as decoding
from tests.generation import test_block_golden as golden
from tests.generation.common import pad
from tests.models.test_bd3lm import small as bd3lm

pytestmark = pytest.mark.once
PROMPTS = [decoding.prompt_of(n) for n in (3, 8, 13, 30)]
RULES = {
    "threshold": {"confidence_threshold": 0.3},
    "first hitting": {"alg": "first_hitting", "temperature": 1.0},
    "ancestral": {"alg": "ancestral", "temperature": 1.0, "top_p": 0.9, "steps": 30},
}


@pytest.fixture(scope="module")
def models():
    return {kind: decoding.load(kind) for kind in decoding.KINDS}


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setitem(graphs.CAPTURES, "cpu", RecordedCalls)


def decode(model, captured, **options):
    ids, mask = pad(PROMPTS, "left", decoding.END)
    options = {"max_new_tokens": 20, "block_length": 8, **decoding.OPTIONS, **options}
    with dpad.patched(model, cuda_graphs=captured):
        return model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **options)


@pytest.mark.parametrize("variant", decoding.VARIANTS)
@pytest.mark.parametrize("kind", decoding.KINDS)
def test_same_tokens_as_eager(models, recorded, kind, variant):
    options = decoding.VARIANTS[variant]
    eager, replayed = (decode(models[kind], captured, **options) for captured in (False, True))
    assert replayed.timings["replayed"] > 0 == eager.timings["replayed"]
    assert replayed.sequences.equal(eager.sequences)
    assert replayed.forwards.equal(eager.forwards)


@pytest.mark.parametrize(
    "trace", [p for p in golden.traces() if p.id not in golden.COUPLED and p.id[-1] in "0357"]
)
def test_published_trace(recorded, trace):
    golden.replay(decoding.load(golden.FAMILY[trace["model"]]), trace)


@pytest.mark.parametrize("kind", decoding.KINDS)
def test_on_a_pretended_device(kind):
    """Its copies are late, and a value that the host reads too soon is garbage."""
    options = {"sub_block_length": 4, "cache": "dual"}
    want = decode(decoding.load(kind), False, **options)
    with pretended_cuda():
        model = decoding.load(kind).to("cuda")
        found = decode(model, True, **options)
        assert found.timings["replayed"] > 0
        assert found.sequences.cpu().equal(want.sequences)


def call_bd3lm(model, **options):
    ids, mask = pad([[5, 6, 7], [9, 8, 7, 6, 5], [3]], "left", 0)
    options = {"max_new_tokens": 20, "cache": "prefix", "early_stop": False, "seed": 1, **options}
    return model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **options)


def decode_bd3lm(model, captured=True, **options):
    with dpad.patched(model, cuda_graphs=captured):
        return call_bd3lm(model, **options)


@pytest.mark.parametrize("adaln", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_bd3lm_decides_as_eagerly(recorded, rule, adaln):
    """Its embedding is no torch.nn.Embedding, and its adaLN vectors are made once."""
    model = bd3lm(adaln=adaln)
    eager, replayed = (decode_bd3lm(model, captured, **RULES[rule]) for captured in (False, True))
    assert replayed.timings["replayed"] > 0 == eager.timings["replayed"]
    assert replayed.sequences.equal(eager.sequences)
    assert replayed.forwards.equal(eager.forwards)


def test_bd3lm_on_a_pretended_device():
    want = decode_bd3lm(bd3lm(), False, **RULES["threshold"])
    with pretended_cuda():
        found = decode_bd3lm(bd3lm().to("cuda"), **RULES["threshold"])
        assert found.timings["replayed"] > 0
        assert found.sequences.cpu().equal(want.sequences)


@pytest.mark.parametrize(
    "name",
    ["vocab_embed.embedding", "sigma_map.mlp.0.bias", "output_layer.adaLN_modulation.weight"],
)
def test_graphs_of_bd3lm_follow_its_weights(recorded, name):
    model, other, rule = bd3lm(), bd3lm(), RULES["threshold"]
    with dpad.patched(model):
        before = call_bd3lm(model, **rule)
        with torch.no_grad():
            for changed in (model, other):
                changed.backbone.get_parameter(name).mul_(-2)
        after = call_bd3lm(model, **rule)
    assert after.timings["replayed"] > 0 and not after.sequences.equal(before.sequences)
    assert after.sequences.equal(decode_bd3lm(other, False, **rule).sequences)


@pytest.mark.parametrize("name", ["vocab_embed", "blocks.1.mlp.0"])
def test_bd3lm_with_hooks_is_not_captured(recorded, name):
    model = bd3lm()
    model.backbone.get_submodule(name).register_forward_hook(lambda module, args, out: out * 0.5)
    found = decode_bd3lm(model, **RULES["threshold"])
    assert found.timings["replayed"] == 0
