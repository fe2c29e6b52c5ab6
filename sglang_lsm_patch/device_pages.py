"""Pages of the device pool that never reached the host tier, copied aside before their slots go.

One gather for many pages of the victim, into the bytes the host pool would hold, and one copy to
host memory for each run of places side by side. On a GPU both run on the forward stream: behind
each forward that wrote a page, before any that can reuse its slots. The writer waits for them, not
the scheduler, which pays for the launches: per batch, hence as few batches as memory allows.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sglang_lsm.errors import UnavailableError
from sglang_lsm.kernels.paged_pool import PagedPool
from sglang_lsm.kernels.reference import gather_pages_reference
from sglang_lsm.pages import PageBuffer

from sglang_lsm_patch.host_pages import host_pages

BATCH_BYTES = 64 << 20
"""Most bytes of one gather: memory of the GPU while it runs, twice that for `page_first`."""
MIN_PAGES = 4
DEVICE_TYPES = ("cpu", "cuda")
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

        Raises:
            UnavailableError: there is no such memory.
        """
        self.batch_pages = max(1, BATCH_BYTES // pool.page_bytes)
        self.num_pages = max(MIN_PAGES, staging_bytes // pool.page_bytes)
        self._pool, self._stream = pool, stream
        self._is_token_first = layout == "page_first"
        self._is_cuda = pool.device.type == "cuda"
        shape = self.num_pages, pool.page_bytes
        try:
            self._places = torch.zeros(shape, dtype=torch.uint8, pin_memory=self._is_cuda)
        except RuntimeError as error:
            raise UnavailableError(
                f"no memory to copy pages of the device to. staging_bytes={staging_bytes}"
            ) from error
        self._views = [memoryview(place) for place in self._places.numpy()]
        # In the order in which they were given back, so mostly side by side.
        self._free = deque(range(self.num_pages))

    @property
    def page_bytes(self) -> int:
        """Bytes of one page; the host pool's must be the same."""
        return self._pool.page_bytes

    def take(self, slots: torch.Tensor) -> CopiedPages | None:
        """Begin to copy pages, from the first on; None when no place is free.

        Args:
            slots: `[n * page_size]` int64 device token slots of whole pages, which may be freed and
                reused by work of the forward stream afterwards.

        Returns:
            The first pages, at most `batch_pages` and as many as places were free.

        Raises:
            Exception: whatever stands in the way: no memory on the device, no compiler for the
                kernel, an earlier failure of the GPU. No place was taken.
        """
        page_size = self._pool.page_size
        num_pages = min(len(slots) // page_size, self.batch_pages, len(self._free))
        if num_pages == 0:
            return None
        places = [self._free.popleft() for _ in range(num_pages)]
        page_ids = slots[: num_pages * page_size : page_size] // page_size
        copy = self._copy_on_gpu if self._is_cuda else self._copy
        try:
            wait = copy(page_ids, places)
        except BaseException:
            self._free.extendleft(reversed(places))
            raise
        return CopiedPages(
            pages=[(self._views[place],) for place in places],
            wait=wait,
            give_back=lambda: self._free.extend(places),
        )

    def _copy(self, page_ids: torch.Tensor, places: Sequence[int]) -> Callable[[], None]:
        for part, to in self._runs(places):
            if not self._is_token_first:
                gather_pages_reference(self._pool, page_ids[part], to)
            else:
                staging = torch.empty_like(to)
                gather_pages_reference(self._pool, page_ids[part], staging)
                self._put_tokens_first(staging, to)
        return lambda: None

    def _copy_on_gpu(self, page_ids: torch.Tensor, places: Sequence[int]) -> Callable[[], None]:
        # Imports triton, which a machine without a GPU may lack.
        from sglang_lsm.kernels.gather_pages import gather_pages

        current = torch.cuda.current_stream(self._pool.device)
        stream = self._stream() or current
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            shape = len(places), self.page_bytes
            staging = torch.empty(shape, dtype=torch.uint8, device=self._pool.device)
            gather_pages(self._pool, page_ids, staging)
            if self._is_token_first:
                layer_first, staging = staging, torch.empty_like(staging)
                self._put_tokens_first(layer_first, staging)
            for part, to in self._runs(places):
                to.copy_(staging[part], non_blocking=True)
            done = torch.cuda.Event()
            done.record(stream)
        # It belongs to the current stream, which could reuse its memory too early.
        page_ids.record_stream(stream)
        return done.synchronize

    def _runs(self, places: Sequence[int]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the memory of each run of places side by side, and which of `places` it is."""
        start = 0
        for end in range(1, len(places) + 1):
            if end == len(places) or places[end] != places[end - 1] + 1:
                first = places[start]
                yield slice(start, end), self._places[first : first + end - start]
                start = end

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


def pages_beside(
    device_pool: Any, host_pool: Any, *, staging_bytes: int, stream: Callable[[], Any]
) -> DevicePages | None:
    """Return what copies pages of a device pool, or None where it is not a `plain_pool`.

    Raises:
        UnavailableError: as `DevicePages`.
    """
    pool = plain_pool(device_pool, host_pool)
    if pool is None or pool.page_bytes != host_pages(host_pool).page_bytes:
        return None
    return DevicePages(pool, layout=host_pool.layout, staging_bytes=staging_bytes, stream=stream)


def plain_pool(device_pool: Any, host_pool: Any) -> PagedPool | None:
    """Return a device pool as the gather sees it, or None unless it is a plain MHA or MLA pool
    on a CPU or a CUDA device, whose pages the host pool holds byte by byte.
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
    return pool if is_same and pool.device.type in DEVICE_TYPES else None


def _paged(
    k: Sequence[torch.Tensor], v: Sequence[torch.Tensor], page_size: int
) -> PagedPool | None:
    try:
        return PagedPool.of(k, v, page_size=page_size)
    except ValueError:
        # Buffers of an unusual shape; such pages are lost, as they are upstream.
        return None
