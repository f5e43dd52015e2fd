"""The CUDA branches of decoding, on a pretended device: `CudaGraph`, streams, pinned copies."""

import pytest
import torch

import dpad
from dpad.decode.decoder import Decoder
from dpad.decode.rules import KINDS
from dpad.decode.step import DeviceStep
from dpad.ops import _dispatch
from tests.doubles.pretended_cuda import CUDA, pretended_cuda
from tests.generation.common import MASK_ID, pad

pytestmark = pytest.mark.once

OPTIONS = {"max_new_tokens": 16, "block_length": 8, "confidence_threshold": 0.6, "cache": "dual"}
OPTIONS |= {"mask_token_id": MASK_ID, "seed": 1, "early_stop": False}
RULE = {"confidence_threshold": None}
GROWTH = {"initial_length": 16, "expansion": 4, "window": 6, "low_confidence": 0.3}
SETTINGS = {
    "threshold": {},
    "quota": {"confidence_threshold": None, "steps": 8},
    "prefix": {"cache": "prefix"},
    "recent": {"refresh": "recent"},
    "recent, prefix, guided": {"refresh": "recent", "cache": "prefix", "cfg_scale": 1.0},
    "drawn": {"temperature": 0.7, "suffix": dpad.Suffix("gaussian", window=16)},
    "guided": {"cfg_scale": 1.0, "confidence_threshold": None, "steps": 8},
    "filtered": {"temperature": 0.7, "top_p": 0.9, "top_k": 50},
    "early stop": {"early_stop": True},
    "no cache": {"cache": "none"},
    "first hitting": {**RULE, "alg": "first_hitting", "temperature": 1.0},
    "masked again": {**RULE, "remask": "conf", "temperature": 1.0, "top_p": 0.9, "steps": 8},
    "refined": {"refine": 0.5},
    **{f"rule {kind}": {**RULE, "commit": kind} for kind in KINDS},
    "grows": {"max_new_tokens": 32, "length": GROWTH},
    "grows, prefix": {"max_new_tokens": 32, "length": GROWTH, "cache": "prefix"},
}


@pytest.fixture
def cuda():
    with pretended_cuda() as device:
        yield device


@pytest.fixture
def runs(monkeypatch, cuda):
    """Of every decoder: [its steps, reads, copies to the device that were waited for]."""
    found, begin, step = [], Decoder.__init__, Decoder.step

    def begun(decoder, *args):
        begin(decoder, *args)
        found.append([0, 0, 0])

    def counted(decoder):
        before = cuda.reads, cuda.slow_sends
        ended = step(decoder)
        more = (1, cuda.reads - before[0], cuda.slow_sends - before[1])
        found[-1] = [n + m for n, m in zip(found[-1], more, strict=True)]
        return ended

    monkeypatch.setattr(Decoder, "__init__", begun)
    monkeypatch.setattr(Decoder, "step", counted)
    return found


def decode(model, prompts, **options):
    batch = [t.to(model.device) for t in pad(prompts, "left")]
    batch = dict(zip(("input_ids", "attention_mask"), batch, strict=True))
    return model.generate(**batch, return_dict_in_generate=True, **{**OPTIONS, **options})


def expected(model, prompts, **options):
    """The tokens on the CPU; the model is on the pretended device afterwards."""
    with dpad.patched(model):
        out = decode(model, prompts, **options)
    model.to("cuda")
    return out.sequences


@pytest.mark.parametrize("name", SETTINGS)
def test_the_tokens_of_the_cpu_with_one_read_per_step(model, prompts, runs, cuda, name):
    options = SETTINGS[name]
    wanted = expected(model, prompts, **options)
    runs.clear()
    for graphs in (False, True):
        with dpad.patched(model, cuda_graphs=graphs):
            out = decode(model, prompts, **options)
        assert out.sequences.device == model.device == CUDA
        assert torch.equal(out.sequences.cpu(), wanted)
        captured = graphs and name not in ("no cache", "grows, prefix")
        assert (out.timings["replayed"] > 0) == captured
        assert out.timings["replayed"] == cuda.replays
    blocks = 3 if name == "refined" else 0  # whose answer is read when they are done
    for steps, reads, sends in runs:
        assert sends == 0 and steps + bool(blocks) <= reads <= steps + len(prompts) * blocks
    assert len(runs) == 2


@pytest.mark.parametrize("name", ["threshold", "quota", "prefix", "drawn", "filtered", "no cache"])
def test_a_pass_is_one_copy(model, prompts, cuda, monkeypatch, name):
    """Layout and controls travel together, replayed or not; canvases once, when they begin."""
    others, step = [], Decoder.step

    def counted(decoder):
        # Padding is sent before a capture.
        count = lambda: cuda.sends - cuda.captures - decoder.stats.passes  # noqa: E731
        before = count()
        ended = step(decoder)
        others.append(count() - before)
        return ended

    monkeypatch.setattr(Decoder, "step", counted)
    model.to("cuda")
    for graphs in (False, True):
        others.clear()
        with dpad.patched(model, cuda_graphs=graphs):
            decode(model, prompts, **SETTINGS[name])
        assert others == [1] + [0] * (len(others) - 1)


def test_with_cuda_as_the_default_device(model, prompts, runs):
    wanted = expected(model, prompts)
    runs.clear()
    torch.set_default_device("cuda")
    try:
        with dpad.patched(model):
            out = decode(model, prompts)
    finally:
        torch.set_default_device(None)
    assert torch.equal(out.sequences.cpu(), wanted) and out.timings["replayed"] > 0
    ((steps, reads, sends),) = runs
    assert (reads, sends) == (steps, 0)


def test_a_streamer_and_a_callback(model, prompts, cuda):
    class Streamer:
        def put(self, value):
            seen.append(value.tolist())

        def end(self):
            seen.append("end")

    def look(model, step, timestep, tensors):
        seen.append((step, timestep, {name: t.tolist() for name, t in tensors.items()}))
        return tensors

    calls = {"streamer": Streamer(), "callback_on_step_end": look}
    calls["callback_on_step_end_tensor_inputs"] = ("block", "transfer_index")
    seen = []
    wanted = expected(model, prompts[:1], **calls)
    before, seen = seen, []
    with dpad.patched(model):
        out = decode(model, prompts[:1], **calls)
    assert torch.equal(out.sequences.cpu(), wanted) and seen == before != []
    assert cuda.replays == out.timings["replayed"] > 0


def test_likelihoods(model, cuda):
    pairs = [([5, 6, 7], [8, 9, 10, 11, 12]), ([5], [7])]
    options = {"samples": 8, "mask_token_id": MASK_ID}
    wanted = dpad.loglikelihood(model, pairs, **options)
    found = dpad.loglikelihood(model.to("cuda"), pairs, **options)
    assert torch.allclose(found.value, wanted.value) and cuda.reads > 0


def test_the_report(llada, prompts, cuda):
    with dpad.patched(llada.to("cuda")) as handle:
        assert "replayed as CUDA graphs, captured when they are first needed (0" in repr(handle)
        decode(llada, prompts)
        assert f"first needed ({cuda.captures} so far)" in repr(handle) and cuda.captures > 0


def test_a_step_that_reads_is_not_captured(llada, prompts, cuda, monkeypatch):
    def reads(step, layout, controls):
        step.canvas.status.tolist()
        return call(step, layout, controls)

    wanted, stream = expected(llada, prompts), cuda.stream
    call = DeviceStep.__call__
    monkeypatch.setattr(DeviceStep, "__call__", reads)
    with dpad.patched(llada) as handle:
        out = decode(llada, prompts)
        assert "eager (a step could not be captured: operation not permitted" in repr(handle)
    assert torch.equal(out.sequences.cpu(), wanted) and cuda.captures == cuda.replays == 0
    assert cuda.stream is stream


def test_devices_cannot_be_mixed(cuda):
    x = torch.arange(3, device="cuda")
    with pytest.raises(RuntimeError, match="cuda:0 and on the CPU"):
        x + torch.arange(3)
    assert (x + 1).tolist() == [1, 2, 3] and cuda.reads == 1


def test_copies_that_nobody_waited_for(cuda):
    x, pinned = torch.arange(3, device="cuda"), torch.zeros(3, dtype=torch.int64, pin_memory=True)
    pinned.copy_(x, non_blocking=True)
    assert pinned.tolist() == [-1] * 3
    torch.cuda.current_stream().synchronize()
    assert pinned.tolist() == [0, 1, 2] and cuda.reads == 1
    x.copy_(pinned, non_blocking=True)
    pinned[0] = 7
    with pytest.raises(RuntimeError, match="written to before"):
        torch.cuda.current_stream().synchronize()


def test_a_capture_computes_nothing(cuda):
    x, graph = torch.ones(3, device="cuda"), torch.cuda.CUDAGraph()
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
    with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
        y = x.add_(1) * 2
        for refused in (x.tolist, x.cpu, x.nonzero, lambda: x.copy_(torch.zeros(3))):
            with pytest.raises(RuntimeError, match="not permitted"):
                refused()
    assert x.tolist() == [1] * 3 and y.isnan().all()
    graph.replay()
    assert x.tolist() == [2] * 3 and y.tolist() == [4] * 3


def test_everything_is_restored_after_an_error():
    before = dict(vars(torch.cuda)), dict(_dispatch.KERNELS), dpad.ops.has_kernel
    with pytest.raises(KeyError), pretended_cuda():
        assert torch.zeros(1, device="cuda").device == CUDA
        raise KeyError
    assert before == (dict(vars(torch.cuda)), dict(_dispatch.KERNELS), dpad.ops.has_kernel)
    assert torch.zeros(1, device="meta").device.type == "meta"
