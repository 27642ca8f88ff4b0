"""Threads and precision of this machine. Set once, never assumed."""

import torch

from finefold.data.machine import num_threads


def set_threads() -> int:
    """Gives torch the processors this process may use; how many."""
    count = num_threads()
    torch.set_num_threads(count)
    return count


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself; elsewhere it is emulated and slower than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
