"""Block-causal steps that are captured and replayed: the tokens of eager ones, and the traces'."""

import pytest

import dpad
from dpad.decode import graphs
from tests.doubles.pretended_cuda import pretended_cuda
from tests.doubles.recorded_calls import RecordedCalls
from tests.generation import test_block_decoding as decoding
from tests.generation import test_block_golden as golden
from tests.generation.common import pad

pytestmark = pytest.mark.once
PROMPTS = [decoding.prompt_of(n) for n in (3, 8, 13, 30)]


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
