"""What captured steps were captured on: buffers that move, grow, are shared or freed meanwhile."""

import threading

import pytest
import torch

import dpad
from dpad.decode import graphs
from tests.doubles.recorded_calls import RecordedCalls
from tests.generation.test_captured_steps import DEVICES, decode, decode_eagerly

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    monkeypatch.setitem(graphs.CAPTURES, "cpu", RecordedCalls)


@pytest.fixture(params=DEVICES)
def llada(request, llada):
    return llada.to(request.param)


def check(model, prompts, eager, **options):
    """Captured steps on the patched model give what `eager` gave; the output."""
    out = decode(model, prompts, **options)
    assert out.timings["replayed"] > 0
    assert torch.equal(out.sequences, eager.sequences)
    assert torch.equal(out.forwards, eager.forwards)
    return out


def test_a_likelihood_that_needs_a_larger_cache(llada, prompts):
    eager = decode_eagerly(llada, prompts)
    with dpad.patched(llada):
        check(llada, prompts, eager)
        dpad.loglikelihood(llada, [([1] * 60, [2] * 40)], samples=16, seed=1)
        check(llada, prompts, eager)


def test_a_forward_over_more_positions(llada, prompts):
    """Longer tables of cos and sin take the place of those that graphs read."""
    eager = decode_eagerly(llada, prompts)
    with dpad.patched(llada) as handle:
        check(llada, prompts, eager)
        handle.adapter.rope(2 * len(handle.adapter.rope(0)[0]))
        check(llada, prompts, eager)


def test_calls_inside_and_outside_of_inference_mode(llada, prompts):
    eager = decode_eagerly(llada, prompts)
    with dpad.patched(llada):
        with torch.inference_mode():
            check(llada, prompts, eager)
        check(llada, prompts, eager)


def test_micro_batches_share_graphs(llada, prompts, monkeypatch):
    """The canvas has room for all of them from the start."""
    prompts = sorted(prompts, key=len)
    eager = decode_eagerly(llada, prompts, micro_batch=1)
    captures, device = [], llada.device.type

    class Counted(graphs.CAPTURES[device]):
        def __init__(self, *args):
            captures.append(1)
            super().__init__(*args)

    monkeypatch.setitem(graphs.CAPTURES, device, Counted)
    with dpad.patched(llada):
        check(llada, prompts, eager, micro_batch=1)
    assert len(captures) == 1


def test_removed_while_a_call_runs(llada, prompts):
    """Fused weights, too, stay until the call is done."""
    eager = decode_eagerly(llada, prompts)
    handle = dpad.patch(llada, fuse_projections=True)
    decode(llada, prompts)
    calls = []

    def kept(row, block):
        calls.append(row)
        if len(calls) == 7:  # in the middle
            handle.remove()
        return eager.kept_suffix[row][block]

    check(llada, prompts, eager, kept_suffix=kept)
    assert handle._workspaces.free == [] and handle.adapter.fused.nbytes == 0


class Wrapped(torch.Tensor):
    """A weight of another kind, as quantised ones are."""


def test_weights_of_another_kind_run_eagerly(llada, prompts):
    eager = decode_eagerly(llada, prompts)
    block = llada.model.transformer.blocks[1]
    block.up_proj.weight = torch.nn.Parameter(block.up_proj.weight.detach().as_subclass(Wrapped))
    with dpad.patched(llada) as handle:
        out = decode(llada, prompts)
        assert torch.equal(out.sequences, eager.sequences) and out.timings["replayed"] == 0
        assert "blocks.1.up_proj' is no plain module" in repr(handle)


def test_a_capture_that_failed_is_not_tried_again(llada, prompts, monkeypatch):
    """torch's allocator may not recover from a capture that broke."""
    tried, device = [], llada.device.type

    class Refuses(graphs.CAPTURES[device]):
        def __init__(self, function, pool):
            tried.append(1)
            raise RuntimeError("no graphs today\nand more lines, as CUDA's errors have them")

    monkeypatch.setitem(graphs.CAPTURES, device, Refuses)
    eager = decode_eagerly(llada, prompts)
    with dpad.patched(llada) as handle:
        for _ in range(2):
            assert torch.equal(decode(llada, prompts).sequences, eager.sequences)
            assert "eager (a step could not be captured: no graphs today)" in repr(handle)
    assert len(tried) == 1


def test_threads_capture_one_after_the_other(llada, prompts):
    eager = decode_eagerly(llada, prompts)
    found, begun = [], threading.Barrier(4)

    def call():
        begun.wait()
        found.append(decode(llada, prompts))

    with dpad.patched(llada):
        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 4
    for out in found:
        assert torch.equal(out.sequences, eager.sequences) and out.timings["replayed"] > 0


def test_the_report_before_a_call_came_to_decode(llada, prompts, monkeypatch):
    class Broken:
        def put(self, value):
            raise RuntimeError("no more streams")

        def end(self):
            pass

    device = llada.device.type
    monkeypatch.delitem(graphs.CAPTURES, device)
    with dpad.patched(llada) as handle:
        with pytest.raises(RuntimeError, match="no more streams"):
            decode(llada, prompts[:1], streamer=Broken())
        assert f"eager ({device} has no graphs)" in repr(handle)


def test_callbacks_do_not_see_what_is_captured(llada, prompts):
    def watched(decode):
        seen = []

        def look(model, step, timestep, tensors):
            seen.append((step, timestep, {n: t.tolist() for n, t in tensors.items()}))

        names = ("block", "transfer_index", "kept_suffix")
        options = {"callback_on_step_end": look, "callback_on_step_end_tensor_inputs": names}
        return decode(llada, prompts, **options), seen

    eager, wanted = watched(decode_eagerly)
    with dpad.patched(llada):
        out, seen = watched(decode)
    assert seen == wanted and torch.equal(out.sequences, eager.sequences)
