"""A child that was forked after a team of threads had run is refused; it would wait for ever."""

import multiprocessing
import os
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

# What a process does before it forks, and the child behind it; each prints what it found.
PROGRAM = """
import os, sys, torch
import dpad
from tests.decode.common import tiny

def generate():
    return model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=8, block_length=4, seed=1)

def told(work):
    try:
        return work()
    except RuntimeError as error:
        return str(error)

torch.set_num_threads(int(sys.argv[1]))
model = tiny()
dpad.patch(model)
before, work = None, {"generate": generate, "forward": lambda: model(torch.tensor([[1, 2]])).logits,
    "loglikelihood": lambda: dpad.loglikelihood(model, [([1], [2])], samples=4),
    "engine": lambda: dpad.Engine(model, max_sequences=1, max_tokens=64).submit(
        [1, 2], max_new_tokens=8).result()}
if sys.argv[2] != "nothing":
    with torch.no_grad():
        work[sys.argv[2]]()
child = os.fork()
if child == 0:
    with torch.no_grad():
        for name in sys.argv[3].split(","):
            print(name, told(work[name]), flush=True)
        torch.set_num_threads(1)
        print("alone", told(generate).shape, flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
with torch.no_grad():
    print("parent", generate().shape, "status", status)
"""
EVERY = "generate,forward,loglikelihood,engine"


def run(*arguments):
    """What the program prints; a child that hangs fails the test."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-2:] == [
        "alone torch.Size([1, 11])",
        "parent torch.Size([1, 11]) status 0",
    ]
    return done.stdout.splitlines()[:-2]


@pytest.mark.slow(reason="processes of their own import Transformers and decode")
@pytest.mark.parametrize("first", ["generate", "forward"])
def test_a_child_of_a_team_is_refused(first):
    said = run("2", first, EVERY)
    assert [line.split()[0] for line in said] == EVERY.split(",")
    for line in said:
        assert "by the method 'spawn'" in line and "torch.set_num_threads(1)" in line


@pytest.mark.slow(reason="processes of their own import Transformers and decode")
@pytest.mark.parametrize("threads, first", [("1", "generate"), ("2", "nothing")])
def test_a_child_without_a_team_decodes(threads, first):
    said = run(threads, first, "generate")
    assert said[0].startswith("generate tensor(")


def spawned(queue):
    from dpad.decode import forked

    forked.check(torch.device("cpu"))
    queue.put("decodes")


@pytest.mark.slow(reason="a process of its own imports torch")
def test_spawned_workers_decode(monkeypatch):
    from dpad.decode import forked

    monkeypatch.setattr(forked._Process, "ran", True)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=spawned, args=(queue,))
    worker.start()
    assert queue.get(timeout=300) == "decodes"
    worker.join()
