"""Machine and package versions, which are stored with every result."""

import os
import platform
from importlib import metadata
from pathlib import Path

import hypersign

__all__ = ["machine", "versions"]


def machine() -> dict[str, str | int]:
    """Returns the processor, the number of cores this process may use, and the system."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")  # Linux names the processor nowhere else
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"processor": processor, "cores": cores, "system": platform.platform()}


def versions(*packages: str) -> dict[str, str]:
    """Returns the versions of HyperSign, Python and the named packages."""
    found = {"hypersign": hypersign.__version__, "python": platform.python_version()}
    return found | {name: metadata.version(name) for name in packages}
