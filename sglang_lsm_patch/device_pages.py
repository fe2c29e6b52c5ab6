"""Pages of the device pool that never reached the host tier, copied aside before their slots go.

One gather for a part of the victim, into the bytes the host pool would hold, and one copy to host
memory. On a GPU both run on the forward stream: behind each forward that wrote the page, before any
that can reuse its slots. The writer waits for them, not the scheduler.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sglang_lsm.kernels.paged_pool import PagedPool
from sglang_lsm.kernels.reference import gather_pages_reference
from sglang_lsm.pages import PageBuffer

CHUNK_BYTES = 8 << 20
"""Most bytes of one gather, and of one place to copy to."""
MIN_CHUNKS = 4
LAYOUTS = ("page_first", "page_first_direct")


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedPages:
    """Pages on their way to host memory."""

    pages: Sequence[PageBuffer]
    """To be read after `wait`, and until `give_back`."""
    wait: Callable[[], None]
    """Returns when the bytes are there. Any thread."""
    give_back: Callable[[], None]
    """Makes the place free again; once. Any thread."""


class DevicePages:
    """A fixed number of places in host memory, pinned beside a GPU, and how to fill them.

    Taken on the scheduler thread, given back on the writer's: thread-safe.
    """

    def __init__(
        self,
        pool: PagedPool,
        *,
        layout: str,
        staging_bytes: int,
        stream: Callable[[], Any] = lambda: None,
    ) -> None:
        """Allocate about `staging_bytes` of host memory.

        Args:
            pool: the device pool.
            layout: of the host pool, one of `LAYOUTS`.
            stream: tells the forward stream of a GPU; None for the current one.
        """
        self.chunk_pages = max(1, CHUNK_BYTES // pool.page_bytes)
        num_chunks = max(MIN_CHUNKS, staging_bytes // (self.chunk_pages * pool.page_bytes))
        self.num_pages = num_chunks * self.chunk_pages
        self._pool, self._stream = pool, stream
        self._is_token_first = layout == "page_first"
        self._is_cuda = pool.device.type == "cuda"
        self._chunks = torch.zeros(
            (num_chunks, self.chunk_pages, pool.page_bytes),
            dtype=torch.uint8,
            pin_memory=self._is_cuda,
        )
        self._free = deque(range(num_chunks))

    @property
    def page_bytes(self) -> int:
        """Bytes of one page; the host pool's must be the same."""
        return self._pool.page_bytes

    def take(self, slots: torch.Tensor) -> CopiedPages | None:
        """Begin to copy pages; None when no place is free.

        Args:
            slots: `[n * page_size]` int64 device token slots of at most `chunk_pages` whole pages,
                which may be freed and reused by work of the forward stream afterwards.
        """
        if not self._free:
            return None
        index = self._free.popleft()
        page_ids = slots[:: self._pool.page_size] // self._pool.page_size
        place = self._chunks[index, : len(page_ids)]
        wait = self._copy_on_gpu(page_ids, place) if self._is_cuda else self._copy(page_ids, place)
        return CopiedPages(
            pages=[(memoryview(page),) for page in place.numpy()],
            wait=wait,
            give_back=lambda: self._free.append(index),
        )

    def _copy(self, page_ids: torch.Tensor, place: torch.Tensor) -> Callable[[], None]:
        if not self._is_token_first:
            gather_pages_reference(self._pool, page_ids, place)
        else:
            staging = torch.empty_like(place)
            gather_pages_reference(self._pool, page_ids, staging)
            self._put_tokens_first(staging, place)
        return lambda: None

    def _copy_on_gpu(self, page_ids: torch.Tensor, place: torch.Tensor) -> Callable[[], None]:
        # Imports triton, which a machine without a GPU may lack.
        from sglang_lsm.kernels.gather_pages import gather_pages

        current = torch.cuda.current_stream(self._pool.device)
        stream = self._stream() or current
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            staging = torch.empty(place.shape, dtype=torch.uint8, device=self._pool.device)
            gather_pages(self._pool, page_ids, staging)
            if self._is_token_first:
                layer_first, staging = staging, torch.empty_like(staging)
                self._put_tokens_first(layer_first, staging)
            place.copy_(staging, non_blocking=True)
            done = torch.cuda.Event()
            done.record(stream)
        # It belongs to the current stream, which could reuse its memory too early.
        page_ids.record_stream(stream)
        return done.synchronize

    def _put_tokens_first(self, pages: torch.Tensor, out: torch.Tensor) -> None:
        """Turn `[P, K/V, layer, token, row]` into `[P, K/V, token, layer, row]`, as bytes."""
        pool, start = self._pool, 0
        for rows in filter(None, (pool.k, pool.v)):
            end = start + pool.num_layers * pool.page_size * rows.row_bytes
            by_layer = pages[:, start:end].unflatten(
                1, (pool.num_layers, pool.page_size, rows.row_bytes)
            )
            by_token = out[:, start:end].unflatten(
                1, (pool.page_size, pool.num_layers, rows.row_bytes)
            )
            by_token.copy_(by_layer.transpose(1, 2))
            start = end


def plain_pool(device_pool: Any, host_pool: Any) -> PagedPool | None:
    """Return a device pool as the gather sees it, or None unless it is a plain MHA or MLA pool
    whose pages the host pool holds byte by byte.
    """
    from sglang.srt.mem_cache.device_pool_info import KVBufferLayout
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
    from sglang.srt.mem_cache.pool_host.mha import (
        AsymmetricMHATokenToKVPoolHost,
        MHATokenToKVPoolHost,
    )
    from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost

    if host_pool.layout not in LAYOUTS:
        return None
    kinds = type(device_pool), type(host_pool)
    page_size = host_pool.page_size
    # Exactly these: a subclass may keep scales or other pieces elsewhere.
    if kinds in (
        (MHATokenToKVPool, MHATokenToKVPoolHost),
        (MHATokenToKVPool, AsymmetricMHATokenToKVPoolHost),
    ):
        info = device_pool.get_device_pool_infos()[0].buffer_info
        is_plain = info.buffers.layout is KVBufferLayout.NHD and info.transfer_buffers is None
        is_plain = is_plain and info.scales is None
        pool = _paged(info.buffers.k, info.buffers.v, page_size) if is_plain else None
    elif kinds == (MLATokenToKVPool, MLATokenToKVPoolHost):
        info = device_pool.get_device_pool_infos()[0].buffer_info
        is_plain = info.scales is None and info.native_buffers is None
        pool = _paged(info.buffers, (), page_size) if is_plain else None
    else:
        return None
    is_same = pool is not None and pool.num_layers == host_pool.layer_num
    return pool if is_same else None


def _paged(
    k: Sequence[torch.Tensor], v: Sequence[torch.Tensor], page_size: int
) -> PagedPool | None:
    try:
        return PagedPool.of(k, v, page_size=page_size)
    except ValueError:
        # Buffers of an unusual shape; such pages are lost, as they are upstream.
        return None
