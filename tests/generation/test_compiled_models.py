"""Patched models under torch.compile: one graph, few recompiles, no copies of K and V.

No test here needs a C++ compiler.
"""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import dpad
from dpad.decode.cache import KVArena
from dpad.decode.forward import logits_of_pass
from dpad.decode.plan import Planner, draw_suffix
from dpad.models.hf.dream import DreamConfig, DreamModel
from dpad.models.mlp import ROWS as MLP_ROWS
from tests.decode.common import EOS_ID, MASK_ID, VOCAB, sequence, tiny
from tests.doubles import remote
from tests.ops.op_helpers import GraphPasses

KV_HEADS, HEAD_DIM = 2, 8
IN_A_LAYER = 5  # operators: two norms, RoPE, attention, SwiGLU; one norm stands behind the last
GENERATE = {"max_new_tokens": 16, "block_length": 8, "threshold": 0.6, "seed": 3, "cache": "dual"}


def dream(layers=2):
    torch.manual_seed(0)
    config = DreamConfig(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=KV_HEADS,
        num_hidden_layers=layers,
        intermediate_size=48,
        vocab_size=VOCAB,
        max_position_embeddings=256,
        mask_token_id=MASK_ID,
        bos_token_id=EOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=EOS_ID,
    )
    return DreamModel(config).float().eval()


def stock(layers=2):
    """LLaDA's released remote code."""
    model = tiny(layers=layers)
    fields = {**model.config.to_dict(), "attention_dropout": 0.0, "use_cache": False}
    return remote.llada_model(fields, state_dict=model.state_dict())


# The native classes and the stock one.
models = pytest.mark.parametrize("make", (tiny, dream, stock), ids=("llada", "dream", "stock"))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def backend():
    """Counts graphs; they run as they were traced."""
    return CompileCounterWithBackend("eager")


def ids_of(batch, length):
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    return torch.randint(0, 50, (batch, length), generator=generator)


def operators(graph):
    """How often dpad's operators stand in a graph."""
    return sum(str(node.target).startswith("dpad.") for node in graph.graph.nodes)


def near(actual, expected):
    """Matrix products of other row counts may differ in the last bits."""
    return (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.slow(reason="torch.compile traces whole models")
@models
@torch.no_grad()
def test_lengths_and_batches_share_few_graphs(make, backend):
    """One graph for the first sizes, one for other lengths, one for other batches; with a mask the
    first and the last of them.
    """
    model = make(layers=1)
    dpad.patch(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    long = MLP_ROWS // 4  # beyond the rows that an uncompiled MLP computes at once
    for batch, length in ((2, 9), (2, 12), (3, 7), (9, 30), (5, long), (12, long + 1), (2, 3)):
        ids = ids_of(batch, length)
        assert near(compiled(ids).logits, model(ids).logits)
    assert backend.frame_count <= 3
    for batch, length in ((2, 9), (4, 6)):
        ids, mask = ids_of(batch, length), torch.ones(batch, length, dtype=torch.int64)
        mask[0, :3] = 0
        given = {"input_ids": ids, "attention_mask": mask}
        assert near(compiled(**given).logits, model(**given).logits)
    assert backend.frame_count <= 5
    assert {operators(g) for g in backend.graphs} == {IN_A_LAYER + 1}


@models
@torch.no_grad()
def test_keys_and_values_are_not_copied(make):
    """The graph after Inductor's passes allocates K and V once and hands them to the operators."""
    model = make(layers=2)
    dpad.patch(model)
    passes = GraphPasses()
    ids = ids_of(3, 11)
    assert near(torch.compile(model, fullgraph=True, backend=passes)(ids).logits, model(ids).logits)
    shape = (KV_HEADS, 3 * 11, HEAD_DIM)
    assert not passes.copies(shape)
    made = passes.nodes(torch.ops.aten.empty, torch.ops.aten.full, torch.ops.aten.new_empty)
    made = [n for n in made if tuple(n.meta["val"].shape) == shape]
    writes = passes.nodes(torch.ops.dpad.rope_kv_write_)
    assert len(made) == 2 and len(writes) == 2
    assert all(list(write.args[-3:-1]) == made for write in writes)


@pytest.mark.once
@pytest.mark.slow(reason="torch.compile traces whole models")
@torch.inference_mode()
def test_a_pass_of_the_decoder_compiles():
    """Refresh and cached steps of sequences of other lengths, in caches that live outside."""
    view, cache = dpad.models.adapter.find_adapter(tiny(layers=1)), KVArena()
    cache.reserve(view, 3 * 64)
    shape = cache.layers[0][0].shape
    passes = GraphPasses()
    step = torch.compile(logits_of_pass, fullgraph=True, backend=passes)
    planner = Planner(0)
    for lengths in ((30, 41), (25, 33), (22, 50, 64)):
        live = [sequence([1] * (n - 20), 20, cache="dual") for n in lengths]
        draw_suffix(live)
        for row, q in enumerate(live):
            q.row, q.start = row, 64 * row
        for refresh in (True, False):
            layout = planner.layout(live)
            tokens = ids_of(1, layout.rows)[0]
            other = copy.deepcopy(cache)
            expected = logits_of_pass(view, tokens, layout, other)
            assert near(step(view, tokens, layout, cache), expected)
            for pair, expected in zip(cache.layers, other.layers, strict=True):
                assert all(near(a, e) for a, e in zip(pair, expected, strict=True))
            assert not passes.copies(shape)
            for q in live:
                assert q.refresh == refresh
                q.step += 1
    assert len(passes.graphs) <= 4


WAYS = ("torch.compile(model)", "model.compile()", "forward first", "forward later", "wrapped")


@pytest.mark.parametrize("way", WAYS)
def test_generate_of_a_compiled_model(llada, backend, prompts, way):
    """`generate` calls the layers, not the forward: it gives what it gave, compiled or not."""
    options = {"fullgraph": True, "backend": backend}
    ids = torch.tensor([prompts[0]])
    with torch.no_grad():
        logits = llada(ids).logits
    plain = copy.deepcopy(llada)
    expected = dpad.generate(plain, ids, **GENERATE)
    called = llada
    if way == "forward first":
        llada.forward = own = torch.compile(llada.forward, **options)
    if way == "wrapped":
        called = torch.compile(llada, **options)
    handle = dpad.patch(called)
    if way == "torch.compile(model)":
        called = torch.compile(llada, **options)
    if way == "model.compile()":
        llada.compile(**options)
    if way == "forward later":
        llada.forward = torch.compile(llada.forward, **options)
    for _ in range(2):
        assert torch.equal(called.generate(ids, **GENERATE), expected)
        assert torch.equal(dpad.generate(called, ids, **GENERATE), expected)
        with torch.no_grad():
            assert near(called(ids).logits, logits)
    # A forward compiled before is the stock one, which now runs with gradients only.
    assert backend.frame_count == (0 if way == "forward first" else 1)
    handle.remove()
    assert torch.equal(dpad.generate(called, ids, **GENERATE), expected)
    if way == "forward first":
        assert llada.forward is own


@torch.no_grad()
def test_a_forward_that_was_compiled_before_does_not_hide_ours(backend):
    model = tiny(layers=1)
    model.forward = torch.compile(model.forward, fullgraph=True, backend=backend)
    dpad.patch(model)
    ids = ids_of(2, 9)
    torch.compile(model.forward, fullgraph=True, backend=backend)(ids)
    assert operators(backend.graphs[-1]) == IN_A_LAYER + 1


@torch.no_grad()
def test_patching_and_removing_under_a_compiled_model(backend):
    """The compiled model notices; a copy of the patched model compiles too."""
    model = tiny(layers=1)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    ids = ids_of(2, 9)
    stock = model(ids).logits
    assert torch.equal(compiled(ids).logits, stock) and operators(backend.graphs[-1]) == 0
    handle = dpad.patch(model)
    assert near(compiled(ids).logits, stock) and operators(backend.graphs[-1]) == IN_A_LAYER + 1
    clone = copy.deepcopy(model)
    handle.remove()
    count = backend.frame_count
    assert torch.equal(compiled(ids).logits, stock) and backend.frame_count == count
    with torch.no_grad():
        model.model.transformer.ff_out.weight.zero_()
    assert near(torch.compile(clone, fullgraph=True, backend=backend)(ids).logits, stock)


def test_gradients_and_other_outputs_take_the_stock_forward(backend):
    """Under one compiled model, each call the way it would go uncompiled."""
    model = tiny(layers=1)
    ids = ids_of(2, 9)
    dpad.patch(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    compiled(ids).logits.sum().backward()
    assert model.model.transformer.wte.weight.grad is not None
    assert operators(backend.graphs[-1]) == 0
    with torch.no_grad():
        states = compiled(ids, output_hidden_states=True).hidden_states
        assert len(states) == 2 and operators(backend.graphs[-1]) == 0
        embedded = model.get_input_embeddings()(ids)
        held = embedded.clone()
        assert near(compiled(inputs_embeds=embedded).logits, model(ids).logits)
        assert torch.equal(embedded, held) and operators(backend.graphs[-1]) == IN_A_LAYER + 1
        with pytest.raises(TypeError, match="nothing"):
            model(ids, nothing=None)
        with pytest.raises(TypeError):
            model(ids, input_ids=ids)
    with torch.inference_mode():
        assert near(compiled(ids).logits, model(ids).logits)


def test_compiled_generate_runs_as_it_is():
    """`torch.compile(model.generate)` makes no graph of a loop that reads back in every step."""
    model, ids = dream(), torch.tensor([[5, 17, 9]])
    with dpad.patched(model):
        entries = (model.generate, model.diffusion_generate)
        options = {"max_new_tokens": 8, "seed": 0, "steps": 4}
        want = [entry(ids, **options) for entry in entries]
        torch._dynamo.utils.counters.clear()
        got = [torch.compile(entry)(ids, **options) for entry in entries]
        assert not torch._dynamo.utils.counters["stats"].get("unique_graphs")
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
