"""Whoever reads a streamer is never left waiting: `end` comes on every way out of a call."""

import threading
from types import SimpleNamespace

import pytest
import torch
import transformers

import dpad
from dpad.decode.decoder import NaNLogitsError

SHORT = {"max_new_tokens": 12, "block_length": 4, "seed": 1}


class Recorder:
    """Counts what it gets; raises at its n-th `put`."""

    def __init__(self, fails_at=None):
        self.puts, self.ends, self.fails_at = 0, 0, fails_at

    def put(self, value):
        if self.puts == self.fails_at:
            raise OSError("the pipe is closed")
        self.puts += 1

    def end(self):
        self.ends += 1


def raising(*args):
    raise KeyboardInterrupt


REFUSED = {
    "an unknown option": {"treshold": 0.9},
    "a bad value": {"temperature": -1},
    "a bad prompt": {"attention_mask": torch.zeros(1, 3, dtype=torch.int64)},
    "too long": {"max_new_tokens": 2**40},
    "a bad processor": {"logits_processor": [3]},
    "a bad criterion": {"stopping_criteria": 3},
    "a bad callback": {"callback_on_step_end": 3},
    "a bad loop": {"custom_generate": "a/repository"},
    "a bad configuration": {"generation_config": {"temperature": 0}},
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("call", ["generate", "diffusion_generate", "custom_generate"])
def test_a_refused_call_ends_the_streamer(dream, name, call):
    recorder = Recorder()
    calls = {
        "generate": dpad.generate,
        "diffusion_generate": lambda m, *a, **o: m.diffusion_generate(*a, **o),
        "custom_generate": dpad.custom_generate,
    }
    with dpad.patched(dream), pytest.raises((TypeError, ValueError)):
        calls[call](dream, [[1, 2, 3]], streamer=recorder, **{**SHORT, **REFUSED[name]})
    assert (recorder.puts, recorder.ends) == (0, 1)


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_put_that_raises_ends_it(llada, fails_at):
    recorder = Recorder(fails_at)
    with pytest.raises(OSError, match="the pipe is closed"):
        dpad.generate(llada, [[1, 2, 3]], streamer=recorder, **SHORT)
    assert (recorder.puts, recorder.ends) == (fails_at, 1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"callback_on_step_end": raising}, KeyboardInterrupt),
        ({"logits_processor": [raising]}, KeyboardInterrupt),
        ({"stopping_criteria": [raising]}, KeyboardInterrupt),
        ({"custom_generate": lambda model, input_ids, streamer, **_: raising()}, KeyboardInterrupt),
        ({}, NaNLogitsError),
    ],
)
def test_what_ends_a_run_ends_it(llada, options, error):
    recorder = Recorder()
    if error is NaNLogitsError:
        with torch.no_grad():
            llada.model.transformer.ff_out.weight.fill_(float("nan"))
    with pytest.raises(error):
        dpad.generate(llada, [[1, 2, 3]], streamer=recorder, **SHORT, **options)
    assert recorder.ends == 1


def test_memory_that_is_missing_ends_it(llada, monkeypatch):
    from dpad.decode import device as devices

    monkeypatch.setattr(devices, "free_bytes", lambda device: 10)
    recorder = Recorder()
    with pytest.raises(MemoryError):
        dpad.generate(llada, [[1, 2, 3]], streamer=recorder, **SHORT)
    assert recorder.ends == 1


def test_a_call_that_works_ends_it_once(llada):
    recorder = Recorder()
    dpad.generate(llada, [[1, 2, 3]], streamer=recorder, early_stop=False, **SHORT)
    assert (recorder.puts, recorder.ends) == (4, 1)


def test_a_reader_in_another_thread_is_released():
    model, tokenizer = dpad.demo.load()
    streamer = transformers.TextIteratorStreamer(tokenizer)
    reader = threading.Thread(target=lambda: list(streamer), daemon=True)
    reader.start()
    with pytest.raises(ValueError):
        dpad.generate(model, [[1, 2]], streamer=streamer, temperature=-1)
    reader.join(timeout=20)
    assert not reader.is_alive()


def test_a_streamer_that_is_none_is_still_refused(llada):
    for streamer in (3, object(), SimpleNamespace(put=print)):
        with pytest.raises(TypeError, match=f"streamer is a {type(streamer).__name__} without"):
            dpad.generate(llada, [[1, 2, 3]], streamer=streamer, **SHORT)
