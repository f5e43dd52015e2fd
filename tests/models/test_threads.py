"""Patched models in several threads at once: own models, and patching beside decoding."""

import threading

import torch

import dpad

OPTIONS = {"max_new_tokens": 24, "block_length": 8, "threshold": 0.6, "seed": 3, "cache": "dual"}
ROUNDS = 4


def together(*works):
    """Runs every function in a thread of its own, at the same time; raises what one raised."""
    gate, errors = threading.Barrier(len(works)), []

    def run(work):
        try:
            gate.wait(timeout=30)
            for _ in range(ROUNDS):
                work()
        except Exception as error:  # a thread's error is silent otherwise
            errors.append(error)

    threads = [threading.Thread(target=run, args=(w,)) for w in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_two_models_in_two_threads(llada, dream, prompts):
    models = {"llada": llada, "dream": dream}
    for model in models.values():
        dpad.patch(model)
    want = {n: [m.generate([p], **OPTIONS) for p in prompts] for n, m in models.items()}

    def work(name):
        for prompt, expected in zip(prompts, want[name], strict=True):
            assert models[name].generate([prompt], **OPTIONS).equal(expected)

    together(lambda: work("llada"), lambda: work("dream"))
    assert all(len(m._dpad_handle._workspaces.free) == 1 for m in models.values())


def test_patching_one_model_while_another_decodes(llada, dream, prompts):
    ids = torch.tensor([prompts[0]])
    with torch.no_grad():
        stock = llada(ids).logits
    want = dpad.generate(llada, ids, **OPTIONS)
    dpad.patch(dream)
    expected = dream.generate(ids, **OPTIONS)

    def on_and_off():
        with dpad.patch(llada):
            assert llada.generate(ids, **OPTIONS).equal(want)
        with torch.no_grad():
            assert llada(ids).logits.equal(stock)

    def decode():
        assert dream.generate(ids, **OPTIONS).equal(expected)

    together(on_and_off, decode)


def test_forward_and_generate_of_one_model(llada, prompts):
    """Gradients are recorded per thread: one trains on the stock forward, one decodes."""
    ids = torch.tensor([prompts[0]])
    handle = dpad.patch(llada)
    want = llada.generate(ids, **OPTIONS)
    with torch.no_grad():
        quick = llada(ids).logits
    recorded = handle.stock_forward(ids).logits

    def infer():
        with torch.no_grad():
            assert llada(ids).logits.equal(quick)

    def record():
        found = llada(ids).logits
        assert found.requires_grad and found.equal(recorded)

    def decode():
        assert llada.generate(ids, **OPTIONS).equal(want)

    together(infer, record, decode)
