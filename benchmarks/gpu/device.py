"""What the machine is, and what its device can do at most."""

from typing import NamedTuple

import torch

from benchmarks import machine
from benchmarks.timing import Timer, is_cuda

# Datasheets of the SXM parts: bytes per second, dense bfloat16 operations per second.
DATASHEET = {"H100": (3.35e12, 990e12), "H200": (4.8e12, 990e12)}


class Limits(NamedTuple):
    """What a device can do at most, and who says so."""

    bandwidth: float
    rate: float | None  # None: not known, operations then count nothing
    source: str
    gpu: str | None = None  # name in `DATASHEET`


def limits(about):
    """`Limits` of what `describe` has described; a device without a datasheet here is measured."""
    name = about["device"]
    for gpu, (bandwidth, rate) in DATASHEET.items():
        if gpu in name and not any(other in name for other in ("PCIe", "NVL", "MIG")):
            return Limits(bandwidth, rate, "datasheet", gpu)
    return Limits(about["copy_bytes_per_second"], None, "measured copy")


def architecture(device):
    """Compute capability of a CUDA device as "90"; "0" of another one."""
    if not is_cuda(device):
        return "0"
    return "{}{}".format(*torch.cuda.get_device_capability(device))


def copy_bandwidth(device, size):
    """Bytes per second of a copy within the device, counting those read and those written."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / Timer(device).median(lambda: target.copy_(source), repeats=10)


def describe(device):
    """Everything a figure depends on, as plain values, but for `copy_bandwidth`."""
    query = ("--query-gpu=name,driver_version,clocks.sm", "--format=csv,noheader")
    about = {
        **machine.describe(),
        "cuda": torch.version.cuda,
        "nvidia_smi": machine.output("nvidia-smi", *query),
        "nvcc": machine.output("nvcc", "--version"),
        "device": "cpu",
    }
    if is_cuda(device):
        properties = torch.cuda.get_device_properties(device)
        about |= {
            "device": properties.name,
            "processors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "cache": getattr(properties, "L2_cache_size", None),
            "cudnn": torch.backends.cudnn.version(),
        }
    return about
