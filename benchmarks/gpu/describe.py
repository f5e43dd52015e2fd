"""Writes what the GPU machine is: device, driver, torch, and the bandwidth that copies reach."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.gpu.timing import Timer


def _output(*command):
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def copy_bandwidth(device, size=1 << 30):
    """Bytes per second of a device-to-device copy, counting those read and those written."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timer = Timer(device)
    return 2 * size / timer.median(lambda: target.copy_(source), repeats=10)


def describe(device="cuda"):
    """Everything a figure depends on, as plain values."""
    about = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": "cpu"}
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about |= {
            "device": properties.name,
            "processors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "copy_bytes_per_second": copy_bandwidth(device),
        }
    query = ("nvidia-smi", "--query-gpu=name,driver_version,clocks.sm", "--format=csv,noheader")
    about |= {"nvidia_smi": _output(*query), "nvcc": _output("nvcc", "--version")}
    return about


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(describe(), indent=1) + "\n", encoding="utf-8")
