"""Memory of a prefill's tensors stays with the process, as torch's own allocator keeps a GPU's.

The C library takes large blocks from the kernel, each anew, and gives them back at once, unless
what a process did before happened to raise its threshold. Each page of a tensor is then a fault; of
1025 tokens with much KV 148,000 were seen.
"""

import ctypes

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_SETTINGS = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_ARENA_MAX: 1}
"""Bytes, bytes, and heaps: a thread with one of its own would fetch memory for itself."""


def register() -> None:
    """Tell the C library; does nothing beside a CUDA device or where it is not glibc."""
    if torch.cuda.is_available():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in _SETTINGS.items():
            mallopt(name, value)
