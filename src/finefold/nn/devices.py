"""Threads and precision of this machine. Set once, never assumed."""

import os
import shutil

import torch

from finefold.data.machine import num_threads
from finefold.errors import RecipeError, UsageError


def set_threads() -> int:
    """Gives torch the processors this process may use; how many."""
    count = num_threads()
    torch.set_num_threads(count)
    return count


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself; elsewhere it is emulated and slower than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def has_compiler() -> bool:
    """Whether torch.compile finds a C++ compiler: `CXX`, g++ or clang++."""
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


def training_device() -> torch.device:
    """The GPU where there is one, else the processor; `FINEFOLD_DEVICE` says otherwise."""
    chosen = os.environ.get("FINEFOLD_DEVICE")
    if chosen not in (None, "", "cpu", "cuda"):
        raise UsageError(f"FINEFOLD_DEVICE is `{chosen}`", "set it to cpu or cuda, or unset it")
    if chosen == "cuda" and not torch.cuda.is_available():
        raise UsageError("FINEFOLD_DEVICE is `cuda`, and torch sees no GPU", "unset it")
    return torch.device(chosen or ("cuda" if torch.cuda.is_available() else "cpu"))


def training_precision(asked: str, device: torch.device) -> str:
    """The precision of training steps; on the processor fp32 is faster than bf16 even where it multiplies bf16.

    Raises:
        RecipeError: the device does not have what was asked for.
    """
    if device.type == "cpu" and asked == "fp16":
        raise RecipeError('train.precision = "fp16" needs a GPU', 'write "auto", "fp32" or "bf16"')
    if asked != "auto":
        return asked
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
