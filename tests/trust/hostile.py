"""Arguments of `generate` and model folders that are wrong: refused with a clear error, in a child.

An argument's error names the option. A folder is the shipped tiny model with one thing changed.
"""

import json
import math
import random
import shutil
import struct
import tempfile
from pathlib import Path

import torch

from dpad.demo import model_folder
from dpad.generation.fields import FIELDS
from tests.trust import children
from tests.trust.report import Report
from tests.trust.subject import Subject

HUGE, NAN = 2**40, math.nan
COUNT, REAL, NAME = (-1, 1.5, "x", [1], NAN), (NAN, "x", [1], -1.0), ("moon", 3, [1])
ANYTHING = (b"x", {1: 2}, [[None]])  # what no option takes
ARGUMENTS = dict.fromkeys(FIELDS, ANYTHING) | {
    "max_new_tokens": (*COUNT, 0),
    "block_length": (*COUNT, 0),
    "steps": (*COUNT, 0, HUGE),
    "num_return_sequences": (*COUNT, 0, HUGE),
    "micro_batch": (*COUNT, 0),
    "top_k": ("x", 1.5, [1]),
    "seed": (1.5, "x", 2**70),
    "mask_token_id": (3.5, "x", -3, 10**6),
    "eos_token_id": ("x", 10**6),
    "pad_token_id": (1.5, "x", 10**6),
    "row_keys": ([1.5], "x", [2**70], 3.5),
    "confidence_threshold": REAL,
    "factor": REAL,
    "entropy_bound": REAL,
    "temperature": (*REAL, math.inf),
    "top_p": (*REAL, 0.0, 1.5),
    "cfg_scale": (NAN, "x", [1]),
    "alg_temp": REAL,
    "alg": NAME,
    "cache": NAME,
    "compatible": NAME,
    "remasking": NAME,
    "suffix": NAME,
    "early_stop": ("no", 3, [1]),
    "trace": ("no", 3, [1]),
    "batch_invariant": ("no", 3, [1]),
    "eps": (*REAL, 0.0, 1.5),
    "refresh": NAME,
    "refresh_period": (*COUNT, 0),
    "look_back": (*COUNT, 0),
    "sub_block_length": (*COUNT, 0, 2),
    "moon": (1,),
    "streamer": (3, "x"),
    "kept_suffix": (3, [[12.5]], [[["a"]]]),
    "noise": (3, "x"),
    "confidences": (3, "x"),
    "generation_tokens_hook_func": (3,),
    "generation_logits_hook_func": (3,),
    "logits_processor": (3, [3]),
    "stopping_criteria": (3, [3]),
    "callback_on_step_end": (3, "x"),
    "callback_on_step_end_tensor_inputs": (3, ["moon"]),
    "custom_generate": (3, "moon/moon"),
    "progress": ("no", 3, [1]),
    "generation_config": (3, {}),
    "tokenizer": (3,),
    "input_ids": (
        torch.zeros(1, 3),
        torch.full((1, 3), -1),
        torch.full((1, 3), 10**9),
        torch.zeros(1, 1, 3, dtype=torch.int64),
        torch.zeros(1, 3, dtype=torch.int64, device="meta"),
        "text",
    ),
    "attention_mask": (
        torch.ones(1, 9),
        torch.full((1, 3), 7),
        torch.ones(1, 3, device="meta"),
        "x",
    ),
}
CASES = [(name, value) for name, values in ARGUMENTS.items() for value in values]


class Argument:
    def __init__(self, number):
        self.name, self.value = CASES[number % len(CASES)]

    def __str__(self):
        return f"{self.name} = {self.value!r}"


def argument_verdict(case, subject):
    call = {"input_ids": torch.tensor([[1, 2, 3]]), "max_new_tokens": 8}
    call[case.name] = case.value
    try:
        subject.generate(call)
    except Exception as error:
        text = str(error)
        named = case.name in text.lower()  # `Suffix.kind` names suffix
        return None if named else f"{type(error).__name__}: {text[:200]}"
    return "accepted"


# --- folders -------------------------------------------------------------------------------------


def _header(folder):
    """(path, header as a dict, the bytes behind it) of the weights."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return path, json.loads(data[8 : 8 + size]), data[8 + size :]


def _write(path, header, data, size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)


def truncated(folder, draw):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def lying_length(folder, draw):
    path, header, data = _header(folder)
    _write(path, header, data, draw.choice((0, 1, 7, 2**31, 2**63, 2**64 - 1)))


def lying_offsets(folder, draw):
    path, header, data = _header(folder)
    entry = header[draw.choice([n for n in header if n != "__metadata__"])]
    entry["data_offsets"] = draw.choice(([0, 2**62], [-1, 8], [8, 0], [0, 0], ["a", 1], None))
    _write(path, header, data)


def lying_shape(folder, draw):
    path, header, data = _header(folder)
    entry = header[draw.choice([n for n in header if n != "__metadata__"])]
    entry["shape"] = draw.choice(([2**62], [2**31, 2**31], [-1], [], "wide", [0]))
    _write(path, header, data)


def no_header(folder, draw):
    path, _, data = _header(folder)
    _write(path, draw.choice((b"", b"[]", b"null", b"{" * 9999, b"\xff\xfe", b"{}")), data)


def missing_tensor(folder, draw):
    path, header, data = _header(folder)
    names = [n for n in header if n != "__metadata__"]
    del header[draw.choice(names)]
    _write(path, header, data)


def outside_index(folder, draw):
    path, header, _ = _header(folder)
    shard = draw.choice(("../model.safetensors", "/etc/passwd", str(path), "none.safetensors", 3))
    names = [n for n in header if n != "__metadata__"]
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
    path.unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickled(folder, draw):
    """Weights that run code when they are loaded."""

    class Bomb:
        def __reduce__(self):
            return (print, ("! a pickle of the folder was run",))

    (folder / "model.safetensors").unlink()
    torch.save({"x": Bomb() if draw.random() < 0.5 else 1}, folder / "pytorch_model.bin")


def no_config(folder, draw):
    texts = ("", "[1]", "null", "[" * 9999, "{", "\x00", '"llada"', '{"model_type": "moon"}')
    (folder / "config.json").write_text(draw.choice(texts))


def strange_config(folder, draw):
    """One size of the configuration is absurd."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    sizes = [
        k
        for k in ("d_model", "n_heads", "n_layers", "mlp_hidden_size", "vocab_size")
        if k in config
    ]
    config[draw.choice(sizes)] = draw.choice((0, -1, HUGE, "x", None, 1.5, [1]))
    path.write_text(json.dumps(config))


MUTATIONS = (truncated, lying_length, lying_offsets, lying_shape, no_header, missing_tensor)
MUTATIONS += (outside_index, pickled, no_config, strange_config)


class Folder:
    def __init__(self, number):
        self.mutation = MUTATIONS[number % len(MUTATIONS)]
        self.draw = random.Random(number)

    def __str__(self):
        return self.mutation.__name__


def folder_verdict(case, load):
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(shutil.copytree(model_folder("tiny_llada"), Path(parent) / "model"))
        case.mutation(folder, case.draw)
        try:
            load(folder)
        except Exception as error:
            plain = type(error).__name__ in ("AttributeError", "IndexError", "RecursionError")
            return f"{type(error).__name__}: {str(error)[:200]}" if plain else None
    return "accepted"


def load(folder):
    from dpad.models.hf import AutoModel

    return AutoModel.from_pretrained(folder)


def child(kind, seed, cases):
    if kind == "arguments":
        subject = Subject()
        children.serve(seed, cases, Argument, lambda case: argument_verdict(case, subject))
    else:
        children.serve(seed, cases, Folder, lambda case: folder_verdict(case, load))


def run(kind, seed, cases):
    code = f"from tests.trust import hostile; hostile.child({kind!r}, {{seed}}, {{cases}})"
    return children.run(Report(kind), seed, cases, code)


def run_arguments(seed, cases):
    """Wrong arguments of `generate`, in turn."""
    return run("arguments", seed, cases)


def run_folders(seed, cases):
    """Model folders with one thing changed."""
    return run("folders", seed, cases)
