"""This machine, as far as it can change a number or a rate."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from finefold.errors import UsageError

PACKAGES = ("finefold", "numpy", "torch", "timm", "openvino", "onnxruntime", "opencv-python-headless", "pillow")


def num_threads() -> int:
    """Processors this process may use; `FINEFOLD_THREADS` sets another number."""
    if chosen := os.environ.get("FINEFOLD_THREADS"):
        if not chosen.isdecimal() or int(chosen) < 1:
            raise UsageError(f"FINEFOLD_THREADS is `{chosen}`", "set it to a whole number above 0, or unset it")
        return int(chosen)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
