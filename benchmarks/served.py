"""A random model behind `dpad serve` in a process of its own."""

import json
import random
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks import random_models
from dpad.cli.common import quiet_loading

SIZES = {"d_model": 512, "n_heads": 8, "n_kv_heads": 8, "n_layers": 14, "mlp_hidden_size": 1536}
SMALL = {"d_model": 64, "n_heads": 2, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 96}
WORDS = 8190  # words that prompts are made of; every vocabulary has them
NAME = "random"


def build(folder, sizes, size=8192, mask_id=8190, end_id=8191, dtype=torch.float32):
    """Writes a random model and its tokenizer, of `size` words; returns both."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [f"w{n}" for n in range(size)]
    names[mask_id], names[end_id] = "<|mdm_mask|>", "<|endoftext|>"
    words = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"mask_token": names[mask_id], "eos_token": names[end_id], "pad_token": names[end_id]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    ids = {"mask_token_id": mask_id, "eos_token_id": end_id, "pad_token_id": end_id}
    lengths = {"vocab_size": size, "embedding_size": size, "max_sequence_length": 512}
    model = random_models.build({**sizes, **ids, **lengths}).to(dtype)
    quiet_loading(always=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def prompts(count, seed):
    """Texts of 16 to 48 random words."""
    draw = random.Random(seed)
    lengths = [draw.randint(16, 48) for _ in range(count)]
    return [" ".join(f"w{draw.randrange(WORDS)}" for _ in range(n)) for n in lengths]


@contextmanager
def server(folder, rows, queue, threads):
    """`dpad serve` of a folder, `rows` requests at a time: (process, url)."""
    words = ["--max-sequences", rows, "--queue", queue, "--threads", threads, "--port", 0]
    words = [*map(str, words), "--json", "--name", NAME, "--log-level", "error"]
    command = [sys.executable, "-m", "dpad.cli", "serve", str(folder), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        lines = []
        while not lines or not lines[-1].startswith("}"):
            lines.append(process.stdout.readline())
            if not lines[-1]:
                raise RuntimeError("dpad serve has ended; what it said stands above")
        told = json.loads("".join(lines))
        if "error" in told:
            raise RuntimeError(f"dpad serve: {told['error']['message']}")
        yield process, told["url"]
    finally:
        process.terminate()
        process.wait(60)


def resident(process):
    """Resident bytes of a process, as Linux tells them."""
    text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return 1024 * int(text.split("VmRSS:")[1].split()[0])
