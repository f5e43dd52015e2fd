"""LLaDA-8B's shape with random 8-bit weights on a CPU: loads it and decodes one block.

python -m benchmarks.quantize_8b [--folder FOLDER] [--threads N]

It needs 9 GB of disk in FOLDER (kept if named, else in a temporary folder) and 10 GB of free
memory. Random weights say nothing of answers; what is measured is the time of a cached step and of
a refresh, and the memory. Results go to benchmarks/results/<machine>/quantize-8b.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

import dpad
from benchmarks import machine
from benchmarks.quantize import RESULTS
from dpad.models.hf import AutoModel
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM
from dpad.models.int8_linear import Int8Linear
from dpad.models.quantized import METHOD

PROMPT, CANVAS, BLOCK, STEPS = 96, 128, 32, 8


def make(folder, fields):
    """Writes the checkpoint, of LLaDA-8B's configuration but for `fields`."""
    config = LLaDAConfig(**fields)
    with torch.device("meta"):
        model = LLaDAModelLM(config).to(torch.bfloat16)
        for name, module in list(model.named_modules()):
            if type(module) is torch.nn.Linear:
                parent, _, last = name.rpartition(".")
                layer = Int8Linear(module.in_features, module.out_features)
                setattr(model.get_submodule(parent), last, layer)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = _random(name, tensor, module, generator)
    # A model that never predicts the mask.
    model.model.transformer.ff_out.scale[config.mask_token_id] = 0
    config.quantization_config = {"quant_method": METHOD}
    model.save_pretrained(folder)


def _random(name, like, module, generator):
    """Values with which every layer's outputs are about as large as its inputs."""
    if like.dtype == torch.int8:
        return torch.randint(-127, 128, like.shape, generator=generator, dtype=torch.int8)
    if name == "scale":  # 73: standard deviation of the weights
        return torch.full(like.shape, module.in_features**-0.5 / 73)
    if like.dim() == 1:
        return torch.nn.Parameter(torch.ones(like.shape, dtype=like.dtype))
    drawn = torch.empty(like.shape, dtype=like.dtype).normal_(generator=generator)
    return torch.nn.Parameter(drawn)


def memory(field):
    """A field of /proc/self/status in MB: VmHWM is the peak, RssAnon without mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(field + ":"))
    return int(found.split()[1]) >> 10


def decode(folder, threads):
    """Loads and decodes one block; what it took."""
    if threads:
        torch.set_num_threads(threads)
    before, begun = memory("RssAnon"), time.perf_counter()
    model = AutoModel.from_pretrained(folder)
    found = {
        "load, seconds": time.perf_counter() - begun,
        "8-bit model, MB": sum(t.nbytes for t in model.state_dict().values()) >> 20,
        "anonymous memory after loading, MB": memory("RssAnon") - before,
        "peak of the process when loaded, mapped files included, MB": memory("VmHWM"),
    }
    ids = torch.randint(0, model.config.vocab_size - 1000, (1, PROMPT))
    with dpad.patch(model):
        begun = time.perf_counter()
        out = model.generate(
            ids,
            max_new_tokens=CANVAS - PROMPT,
            block_length=BLOCK,
            steps=STEPS,
            cache="dual",
            early_stop=False,
            seed=0,
            trace=True,
            return_dict_in_generate=True,
        )
        found["decoding, seconds"] = time.perf_counter() - begun
    last, seconds = 0.0, {"refresh": [], "step": []}
    for event in out.trace.events:
        seconds["step" if event["kept"] is None else "refresh"].append(event["time"] - last)
        last = event["time"]
    found["refresh, seconds"] = median(seconds["refresh"])
    found["cached step, seconds"] = median(seconds["step"])
    found["cached steps"] = len(seconds["step"])
    found["anonymous memory in the end, MB"] = memory("RssAnon")
    rows = {"prompt": PROMPT, "canvas": CANVAS, "block_length": BLOCK}
    return {**rows, "threads": torch.get_num_threads(), **found, "machine": machine.describe()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--fields", default="{}", help="JSON: other sizes, to try the program")
    parser.add_argument("--no-save", action="store_true")
    parser.add_argument("--part", choices=("make", "decode"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "make":
        return make(options.folder, json.loads(options.fields))
    if options.part == "decode":
        print(json.dumps(decode(options.folder, options.threads), indent=1))
        return None
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        if not (folder / "config.json").exists():
            _run("make", folder, options)
        text = _run("decode", folder, options)  # a process of its own: its peak is the model's
    found = json.loads(text)
    found["machine"]["command"] = machine.command()  # not that of the part
    text = json.dumps(found, indent=1)
    print(text)
    if not options.no_save:
        target = RESULTS / machine.tag(found["machine"])
        target.mkdir(parents=True, exist_ok=True)
        (target / "quantize-8b.json").write_text(text + "\n")
    return None


def _run(part, folder, options):
    command = [sys.executable, "-m", "benchmarks.quantize_8b", "--part", part]
    command += ["--folder", str(folder), "--threads", str(options.threads)]
    command += ["--fields", options.fields]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
