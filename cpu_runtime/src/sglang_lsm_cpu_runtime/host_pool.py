"""HiCache's host pools on CPU: plain memory, and transfers made of torch copies.

Upstream registers host memory with CUDA and imports its transfer functions only where there is an
accelerator. The functions here have upstream's names and parameters, and serve the io backend
`direct` with the host layouts `page_first_direct` and `layer_first`.

Shapes: a device layer is `[T, H, D]`, a page-first host buffer `[P, L, S, H, D]`. Indices are int64
token slots. SGLang's paged allocators hand out whole pages, so the first slot of each S names a
page, and every page travels as one copy per layer.
"""

from collections.abc import Sequence

import torch

RESERVE_BYTES = 1 << 30
"""Memory that a host pool must leave free. Upstream's 10 GiB are meant for GPU servers; more than
a laptop has left."""


def register() -> None:
    """Give SGLang the functions; does nothing beside a CUDA device. Called once a process."""
    if torch.cuda.is_available():
        return
    from sglang.srt.mem_cache.pool_host import base, common, mha
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    base.HICACHE_HOST_MEMORY_RESERVE_BYTES = RESERVE_BYTES
    common.ALLOC_MEMORY_FUNCS["cpu"] = _allocate
    for function in (
        transfer_kv_direct,
        transfer_kv_per_layer_direct_pf_lf,
        transfer_kv_all_layer_direct_lf_pf,
    ):
        setattr(mha, function.__name__, function)
    HookRegistry.register(
        "sglang.srt.mem_cache.pool_host.base.HostKVCache.__init__", _unpinned, HookType.BEFORE
    )


def transfer_kv_direct(
    src_layers: Sequence[torch.Tensor],
    dst_layers: Sequence[torch.Tensor],
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    page_size: int,
) -> None:
    """Copy token slots between layers of the same shape, `[T, H, D]` on both sides."""
    for src, dst in zip(src_layers, dst_layers, strict=True):
        dst[dst_indices] = src[src_indices]


def transfer_kv_per_layer_direct_pf_lf(
    src_ptrs: Sequence[torch.Tensor],
    dst_ptrs: Sequence[torch.Tensor],
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    layer_id: int,
    page_size: int,
) -> None:
    """Copy pages of one layer from the host buffers K and V to the device layers K and V."""
    host_slots = _first_slots(src_indices, page_size)
    device_slots = _first_slots(dst_indices, page_size)
    for host, device in zip(src_ptrs, dst_ptrs, strict=True):
        for src, dst in zip(host_slots, device_slots, strict=True):
            device[dst : dst + page_size].copy_(host[src // page_size, layer_id])


def transfer_kv_all_layer_direct_lf_pf(
    src_ptrs: Sequence[torch.Tensor],
    dst_ptrs: Sequence[torch.Tensor],
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    page_size: int,
) -> None:
    """Copy pages of all layers from the device to the host buffers.

    Args:
        src_ptrs: 2L device layers: K of every layer, then V of every layer.
        dst_ptrs: the host buffers K and V.
    """
    device_slots = _first_slots(src_indices, page_size)
    host_slots = _first_slots(dst_indices, page_size)
    num_layers = len(src_ptrs) // len(dst_ptrs)
    for i, device in enumerate(src_ptrs):
        host, layer_id = dst_ptrs[i // num_layers], i % num_layers
        for src, dst in zip(device_slots, host_slots, strict=True):
            host[dst // page_size, layer_id].copy_(device[src : src + page_size])


def _first_slots(indices: torch.Tensor, page_size: int) -> list[int]:
    slots: list[int] = indices[::page_size].tolist()
    return slots


def _allocate(
    dims: tuple[int, ...],
    dtype: torch.dtype,
    device: str,
    pin_memory: bool,
    allocator: object,
    registration_granularity_bytes: int | None = None,
) -> torch.Tensor:
    buffer: torch.Tensor = allocator.allocate(dims, dtype=dtype, device=device)  # type: ignore[attr-defined]
    return buffer


def _unpinned(*args: object, **kwargs: object) -> tuple[tuple[object, ...], dict[str, object]]:
    # Page-locked memory needs an accelerator; upstream would ask torch for it in a later call.
    return args, {**kwargs, "pin_memory": False}
