"""A server on a free port of this machine, and OpenAI's own client."""

import threading
import time
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

import dpad

if not (find_spec("fastapi") and find_spec("openai")):  # `make test-serve` has them
    collect_ignore_glob = ["test_*.py"]

MASK_ID, END_ID = 256, 257


def byte_tokenizer():
    """One token per byte; "<mask>" and "<end>" are special."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {letter: index for index, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE({**ids, "<mask>": MASK_ID, "<end>": END_ID}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", mask_token="<mask>"
    )


def byte_model():
    """A small random LLaDA over bytes."""
    from dpad.models.hf import LLaDAConfig, LLaDAModelLM

    torch.manual_seed(3)
    sizes = {"d_model": 32, "n_heads": 2, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 48}
    vocabulary = {"vocab_size": 258, "embedding_size": 258, "max_sequence_length": 1024}
    ids = {"mask_token_id": MASK_ID, "eos_token_id": END_ID, "pad_token_id": END_ID}
    model = LLaDAModelLM(LLaDAConfig(**sizes, **vocabulary, **ids, init_device="cpu"))
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model.float().eval()


@contextmanager
def served(
    model, tokenizer, name="demo", queue=64, max_sequences=8, max_tokens=8192, adds=None, **options
):
    """A server of a model: its `url`, `client`, `engine`, `app`; `adds` changes the application."""
    import openai

    from dpad.serving import create_app
    from dpad.serving.server import Server

    engine = dpad.Engine(
        model, max_sequences=max_sequences, max_tokens=max_tokens, queue=queue
    ).start()
    app = create_app(engine, tokenizer, name=name, **options)
    app = app if adds is None else adds(app)
    server = Server(app, engine, "127.0.0.1", 0, 5, "critical")
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    url, port = server.url, int(server.url.rpartition(":")[2])
    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=60)
    try:
        yield SimpleNamespace(url=url, port=port, client=client, engine=engine, app=app)
    finally:
        client.close()
        engine.close()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def wait_for(condition, seconds=20):
    """Until it is true; fails after some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def demo():
    """(model, tokenizer) that counts."""
    return dpad.demo.load()


@pytest.fixture(scope="session")
def byte_demo():
    """(model, tokenizer) of random bytes."""
    return byte_model(), byte_tokenizer()


@pytest.fixture(scope="module")
def server(demo):
    with served(*demo) as found:
        yield found


@pytest.fixture(scope="module")
def byte_server(byte_demo):
    with served(*byte_demo) as found:
        yield found


@pytest.fixture
def client(server):
    return server.client


@pytest.fixture(scope="session")
def problems():
    return dpad.demo.problems(12, seed=3)
