"""Writes what the GPU machine is: device, driver, torch, and the bandwidth that copies reach."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.gpu.timing import Timer

PEERS = ("transformers", "triton", "flash_attn", "flashinfer", "xformers")


def _output(*command):
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _version(name):
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def copy_bandwidth(device, size=1 << 30):
    """Bytes per second of a device-to-device copy, counting those read and those written."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / Timer(device).median(lambda: target.copy_(source), repeats=10)


def describe(device="cuda", small=False):
    """Everything a figure depends on, as plain values."""
    about = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "commit": _output("git", "rev-parse", "HEAD"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "packages": {name: _version(name) for name in PEERS},
        "device": "cpu",
        "copy_bytes_per_second": copy_bandwidth(device, (1 << 20) if small else (1 << 30)),
    }
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about |= {
            "device": properties.name,
            "processors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "cache": getattr(properties, "L2_cache_size", None),
            "cudnn": torch.backends.cudnn.version(),
        }
    query = ("nvidia-smi", "--query-gpu=name,driver_version,clocks.sm", "--format=csv,noheader")
    about |= {"nvidia_smi": _output(*query), "nvcc": _output("nvcc", "--version")}
    return about


def main(arguments=None):
    """``FILE [--small]``: with it the CPU is described, to try the program."""
    path, *small = sys.argv[1:] if arguments is None else arguments
    found = describe("cpu" if small else "cuda", small=bool(small))
    Path(path).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
