"""Where and by what a result was measured."""

import os
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers

import dpad
from benchmarks.timing import is_cuda

ROOT = Path(__file__).resolve().parents[1]


def cpu_model():
    """The processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE)
        if names:
            return names[0].strip()
    return platform.processor() or platform.machine()


def output(*command):
    """What a program prints, or None where it is not there or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def peaks():
    """GFLOP/s of a large float32 product and GB/s of reading memory, by torch's threads."""
    a, big = torch.randn(1536, 1536), torch.ones(1 << 26)

    def fastest(function):
        seconds = []
        for _ in range(5):
            begun = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - begun)
        return min(seconds)

    return 2e-9 * 1536**3 / fastest(lambda: a @ a), 4e-9 * big.numel() / fastest(big.sum)


def command():
    """The command line of this process."""
    return shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])


def cuda(device):
    """The same of a CUDA device; of others that there is none."""
    if not is_cuda(device):
        return {"device": "cpu"}
    query = ("--query-gpu=name,driver_version,clocks.sm", "--format=csv,noheader")
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "architecture": "{}{}".format(*torch.cuda.get_device_capability(device)),
        "processors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "cache": getattr(properties, "L2_cache_size", None),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nvidia_smi": output("nvidia-smi", *query),
        "nvcc": output("nvcc", "--version"),
    }


def describe():
    """Everything that a figure depends on besides its settings and its device, as plain values."""
    info = dpad.build_info()
    changed = output("git", "status", "--porcelain", "--untracked-files=no")
    return {
        "command": command(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": info.get("cpu_isa", "none: " + info["_C"]),
        "build": info.get("build"),
        "system": platform.system() + " " + platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dpad": dpad.__version__,
        "commit": output("git", "rev-parse", "HEAD"),
        "changed_files": None if changed is None else len(changed.splitlines()),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def tag(machine):
    """A folder name for results of this kind of machine."""
    isa = machine["isa"].split(":")[0]
    text = f"{machine['cpu']} {machine['cores']} cores {machine['threads']} threads {isa}"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
