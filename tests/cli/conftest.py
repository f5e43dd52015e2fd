"""Runs commands in this process, and folders with models to run them on."""

import json
import shlex

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from dpad.cli.app import app
from dpad.models.hf import LLaDAConfig, LLaDAModelLM

MASK_ID, EOS_ID = 95, 96


@pytest.fixture
def run():
    """`run("generate demo ...")`: the finished command, with exit_code, stdout, stderr, json."""

    def invoke(line, stdin=None):
        words = shlex.split(line) if isinstance(line, str) else line
        result = CliRunner().invoke(app, words, input=stdin, prog_name="dpad")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        result.json = json.loads(result.stdout) if "--json" in words else None
        return result

    return invoke


def _tokenizer():
    """One token per printable ASCII character; no chat template."""
    letters = {chr(code): code - 32 for code in range(32, 127)}
    ids = {**letters, "<mask>": MASK_ID, "<end>": EOS_ID, "<unk>": 97}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", mask_token="<mask>", unk_token="<unk>"
    )


def _model():
    torch.manual_seed(3)
    sizes = {"d_model": 32, "n_heads": 2, "n_kv_heads": 2, "n_layers": 1, "mlp_hidden_size": 48}
    vocabulary = {"vocab_size": 100, "embedding_size": 100, "max_sequence_length": 320}
    ids = {"mask_token_id": MASK_ID, "eos_token_id": EOS_ID, "pad_token_id": EOS_ID}
    config = LLaDAConfig(**sizes, **vocabulary, **ids, init_device="cpu")
    model = LLaDAModelLM(config).float().eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Folder of a small random LLaDA with a tokenizer of its own."""
    path = tmp_path_factory.mktemp("llada")
    _model().save_pretrained(path)
    _tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def broken_folder(tmp_path_factory):
    """The same with a head that gives NaN."""
    path = tmp_path_factory.mktemp("broken")
    model = _model()
    with torch.no_grad():
        model.model.transformer.ff_out.weight.fill_(float("nan"))
    model.save_pretrained(path)
    _tokenizer().save_pretrained(path)
    return path
