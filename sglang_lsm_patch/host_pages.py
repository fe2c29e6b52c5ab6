"""The host pool's memory as pages, without a copy.

SGLang keeps a page as one run of token slots. In the page-first layouts its bytes are one run per
buffer (K and V, or one for MLA); in the others they are many small runs, whose addresses only the
pool knows.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from sglang_lsm.errors import ConfigError
from sglang_lsm.pages import PageBuffer

CONTIGUOUS_LAYOUTS = ("page_first", "page_first_direct", "page_head")


class HostPages(Protocol):
    """Turns token slots of a host pool into page buffers."""

    @property
    def page_bytes(self) -> int:
        """Payload bytes of one page, all pieces."""

    def buffers(self, host_indices: torch.Tensor, num_pages: int) -> list[PageBuffer]:
        """Return the memory of `num_pages` pages, writable, borrowed from the pool.

        Args:
            host_indices: `[num_pages * page_size]` int64 token slots, each page one aligned run.

        Raises:
            ConfigError: the slots are not that many whole pages of this pool.
        """

    def at(self, pages: Sequence[int]) -> list[PageBuffer]:
        """Return the memory of pages by their numbers: first token slot / page size.

        Raises:
            ConfigError: there is no such page in this pool.
        """


def host_pages(pool: Any) -> HostPages:
    """Return the fastest view of `pool` that gives the addresses the pool itself gives."""
    tensors = _page_tensors(pool)
    if tensors:
        view = ContiguousPages(pool, tensors)
        if view.agrees_with_pool():
            return view
    return ScatteredPages(pool)


class ContiguousPages:
    """Pages whose pieces are one run each: slices of one flat view per buffer.

    Thread-safe: immutable after construction.
    """

    def __init__(self, pool: Any, tensors: list[torch.Tensor]) -> None:
        self._pool = pool
        self._flat = [memoryview(tensor.view(-1).view(torch.uint8).numpy()) for tensor in tensors]
        self._num_pages = pool.size // pool.page_size
        self._piece_bytes = [flat.nbytes // self._num_pages for flat in self._flat]

    @property
    def page_bytes(self) -> int:
        """Payload bytes of one page, all pieces."""
        return sum(self._piece_bytes)

    def buffers(self, host_indices: torch.Tensor, num_pages: int) -> list[PageBuffer]:
        """See HostPages.buffers. Cost: one slice a piece, no walk over tokens."""
        _require_whole_pages(host_indices, num_pages, self._pool.page_size)
        size = self._pool.page_size
        first_slots = host_indices[::size].tolist()
        if any(slot % size for slot in first_slots):
            raise ConfigError("host slots do not start pages of this pool")
        return self.at([slot // size for slot in first_slots])

    def at(self, pages: Sequence[int]) -> list[PageBuffer]:
        """See HostPages.at. Cost: one slice a piece."""
        # Plain numbers: for a few pages, operations on tensors take longer.
        if any(not 0 <= page < self._num_pages for page in pages):
            raise ConfigError("host slots do not start pages of this pool")
        pieces = [
            [flat[page * size : (page + 1) * size] for page in pages]
            for flat, size in zip(self._flat, self._piece_bytes, strict=True)
        ]
        return list(zip(*pieces, strict=True))

    def agrees_with_pool(self) -> bool:
        """Return whether the first and last page have the addresses that the pool states."""
        size = self._pool.page_size
        slots = torch.cat(
            [torch.arange(size), torch.arange(self._pool.size - size, self._pool.size)]
        )
        addresses, lengths = self._pool.get_page_buffer_meta(slots)
        pieces = [piece for page in self.buffers(slots, 2) for piece in page]
        return [(_address(piece), piece.nbytes) for piece in pieces] == list(
            zip(addresses, lengths, strict=True)
        )


class ScatteredPages:
    """Pages of any layout, by the addresses the pool states for each.

    Thread-safe: immutable after construction. Cost: a Python loop inside the pool.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        _, lengths = pool.get_page_buffer_meta(torch.arange(pool.page_size))
        self.page_bytes = sum(lengths)

    def buffers(self, host_indices: torch.Tensor, num_pages: int) -> list[PageBuffer]:
        """See HostPages.buffers."""
        _require_whole_pages(host_indices, num_pages, self._pool.page_size)
        if num_pages == 0:
            return []
        if not (int(host_indices.min()) >= 0 and int(host_indices.max()) < self._pool.size):
            raise ConfigError("host slots lie outside of this pool")
        addresses, lengths = self._pool.get_page_buffer_meta(host_indices)
        pieces = [
            memoryview((ctypes.c_ubyte * length).from_address(address)).cast("B")
            for address, length in zip(addresses, lengths, strict=True)
        ]
        per_page = len(pieces) // num_pages
        return [pieces[i : i + per_page] for i in range(0, len(pieces), per_page)]

    def at(self, pages: Sequence[int]) -> list[PageBuffer]:
        """See HostPages.at."""
        size = self._pool.page_size
        first_slots = torch.tensor(pages, dtype=torch.int64)[:, None] * size
        return self.buffers((first_slots + torch.arange(size)).reshape(-1), len(pages))


def _page_tensors(pool: Any) -> list[torch.Tensor]:
    """Return the buffers that hold one run per page, in storage order; or none."""
    from sglang.srt.mem_cache.pool_host.mha import (
        AsymmetricMHATokenToKVPoolHost,
        MHATokenToKVPoolHost,
    )
    from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost

    if pool.layout not in CONTIGUOUS_LAYOUTS or pool.kv_buffer is None:
        return []
    # Exactly these: a subclass may keep scales or other pieces elsewhere.
    if type(pool) in (MHATokenToKVPoolHost, AsymmetricMHATokenToKVPoolHost):
        tensors = [pool.k_buffer, pool.v_buffer]
    elif type(pool) is MLATokenToKVPoolHost:
        tensors = [pool.kv_buffer]
    else:
        return []
    return tensors if all(tensor.is_contiguous() for tensor in tensors) else []


def _require_whole_pages(host_indices: torch.Tensor, num_pages: int, page_size: int) -> None:
    if host_indices.numel() != num_pages * page_size:
        raise ConfigError(
            f"host slots and pages do not match. slots={host_indices.numel()} pages={num_pages} "
            f"page_size={page_size}"
        )


def _address(piece: memoryview) -> int:
    return ctypes.addressof(ctypes.c_ubyte.from_buffer(piece))
