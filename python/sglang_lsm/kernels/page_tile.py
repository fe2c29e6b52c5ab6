"""The part that gather and scatter share: which bytes of pool and staging one program copies.

A run is what one page holds in one buffer: `page_size` rows, dense in staging, perhaps strided in
the pool. The grid has one program per (page, tile of a run; buffer), so one launch covers all
pages, K and V, and all layers. Addresses are 64-bit; inside a run, which `paged_pool` caps, 32 bits
suffice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import torch
import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

from sglang_lsm.kernels.paged_pool import PagedPool, RowLayout

TILE_BYTES: Final = 4096
"""Bytes that one program copies: four 16-byte vectors for each of 64 threads.

2 and 4 KiB are the fastest on an H200, by 2 to 3 % over 8 and more (`scripts/gpu_check`).
"""

_MAX_NUM_WARPS: Final = 4
_MAX_GRID_X: Final = (1 << 31) - 1
_MAX_GRID_Y: Final = (1 << 16) - 1
_WORDS: Final = {8: tl.int64, 4: tl.int32, 2: tl.int16, 1: tl.int8}


class Kernel(Protocol):
    """What `triton.jit` makes of a kernel, compiled or interpreted."""

    def __getitem__(self, grid: tuple[int, int]) -> Callable[..., object]:
        """Return the launch of that many programs."""


class Extents(NamedTuple):
    """The rows of one page in one buffer, in words."""

    rows: int
    row: int
    stride: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGeometry:
    """The compile-time arguments of `page_tile`. A process meets one set per pool, or very few."""

    vector_bytes: int
    """What one memory access moves at best; 16 are two words of 8, side by side and aligned."""
    word_bytes: int
    tile: int
    """Words that one program copies, a power of two."""
    num_tiles: int
    """Of the longest run."""
    num_layers: int
    staging_stride: int
    """Words from one page to the next."""
    k: Extents
    v: Extents

    @property
    def num_warps(self) -> int:
        """So many that a thread has four 16-byte vectors to move, as far as that is possible."""
        return min(_MAX_NUM_WARPS, max(1, self.tile * self.word_bytes // 2048))

    def constants(self) -> dict[str, object]:
        """Return them by the names that the kernels give them."""
        return {
            "WORD": _WORDS[self.word_bytes],
            "VECTOR_BYTES": self.vector_bytes,
            "TILE": self.tile,
            "NUM_TILES": self.num_tiles,
            "NUM_LAYERS": self.num_layers,
            "STAGING_STRIDE": self.staging_stride,
            "K_ROWS": self.k.rows,
            "K_ROW": self.k.row,
            "K_STRIDE": self.k.stride,
            "V_ROWS": self.v.rows,
            "V_ROW": self.v.row,
            "V_STRIDE": self.v.stride,
        }


@triton.jit  # type: ignore[untyped-decorator]
def page_tile(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - a kernel takes its geometry flat
    addresses_ptr,
    page_ids_ptr,
    staging_ptr,
    WORD: tl.constexpr,
    VECTOR_BYTES: tl.constexpr,
    TILE: tl.constexpr,
    NUM_TILES: tl.constexpr,
    NUM_LAYERS: tl.constexpr,
    STAGING_STRIDE: tl.constexpr,
    K_ROWS: tl.constexpr,
    K_ROW: tl.constexpr,
    K_STRIDE: tl.constexpr,
    V_ROWS: tl.constexpr,
    V_ROW: tl.constexpr,
    V_STRIDE: tl.constexpr,
):
    """Return pool pointers, staging pointers and mask, each `[TILE]`; extents are in words."""
    page_index = (tl.program_id(0) // NUM_TILES).to(tl.int64)
    page_id = tl.load(page_ids_ptr + page_index).to(tl.int64)
    buffer = tl.program_id(1)
    address = tl.load(addresses_ptr + buffer)
    pool_ptr = tl.multiple_of(address.to(tl.pointer_type(WORD)), VECTOR_BYTES)
    staging_ptr = tl.multiple_of(staging_ptr.to(tl.pointer_type(WORD)), VECTOR_BYTES)
    # [TILE]
    word = (tl.program_id(0) % NUM_TILES) * TILE + tl.arange(0, TILE)
    if buffer < NUM_LAYERS:
        pool_offset = page_id * (K_ROWS * K_STRIDE) + _in_page(word, K_ROWS, K_ROW, K_STRIDE)
        run_start = buffer.to(tl.int64) * (K_ROWS * K_ROW)
        in_run = word < K_ROWS * K_ROW
    else:
        pool_offset = page_id * (V_ROWS * V_STRIDE) + _in_page(word, V_ROWS, V_ROW, V_STRIDE)
        layer = (buffer - NUM_LAYERS).to(tl.int64)
        run_start = layer * (V_ROWS * V_ROW) + NUM_LAYERS * (K_ROWS * K_ROW)
        in_run = word < V_ROWS * V_ROW
    staging_offset = page_index * STAGING_STRIDE + run_start + word
    return pool_ptr + pool_offset, staging_ptr + staging_offset, in_run


@triton.jit  # type: ignore[untyped-decorator]
def _in_page(word, ROWS: tl.constexpr, ROW: tl.constexpr, STRIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the offset, from the page's first row in the pool, of each word of a run."""
    if ROWS == 1:
        return word.to(tl.int64)
    else:
        return (word // ROW).to(tl.int64) * STRIDE + word % ROW


def launch(
    kernel: Kernel, pool: PagedPool, page_ids: torch.Tensor, staging: torch.Tensor, tile_bytes: int
) -> None:
    """Run `kernel`, gather or scatter, on the current stream; one launch, or none for no pages.

    `page_ids` and `staging` have passed `pool.check`.

    Raises:
        ValueError: the kernel cannot run where the pool lies, or not with so many programs.
    """
    is_compiled = isinstance(kernel, JITFunction)
    if is_compiled != pool.addresses.is_cuda:
        raise ValueError(
            "compiled kernels need a pool on a GPU, interpreted ones a pool on the CPU;"
            f" else use the reference. device={pool.device} compiled={is_compiled}"
        )
    if len(page_ids) == 0:
        return
    geometry = tile_geometry(pool, staging, tile_bytes=tile_bytes)
    grid = (len(page_ids) * geometry.num_tiles, len(pool.buffers))
    if grid[0] > _MAX_GRID_X or grid[1] > _MAX_GRID_Y:
        raise ValueError(f"too many pages or buffers for one launch. grid={grid}")
    options = {"num_warps": geometry.num_warps}
    with torch.cuda.device_of(staging):  # type: ignore[no-untyped-call]
        kernel[grid](pool.addresses, page_ids, staging, **geometry.constants(), **options)


def tile_geometry(pool: PagedPool, staging: torch.Tensor, *, tile_bytes: int) -> TileGeometry:
    """Choose the widest vector that all alignments allow, and put every extent into words."""
    if tile_bytes < 16 or tile_bytes & (tile_bytes - 1):
        raise ValueError(f"tile_bytes must be a power of two, at least 16. tile_bytes={tile_bytes}")
    # A smaller stride can only stand on a lone page, where it means nothing.
    stride_bytes = max(staging.stride(0), pool.page_bytes)
    vector_bytes = math.gcd(pool.alignment, staging.data_ptr(), stride_bytes)
    word_bytes = min(8, vector_bytes)
    longest_run = pool.page_size * max(pool.k.row_bytes, pool.v.row_bytes if pool.v else 0)
    tile_bytes = min(tile_bytes, max(16, triton.next_power_of_2(longest_run)))
    return TileGeometry(
        vector_bytes=vector_bytes,
        word_bytes=word_bytes,
        tile=tile_bytes // word_bytes,
        num_tiles=-(-longest_run // tile_bytes),
        num_layers=pool.num_layers,
        staging_stride=stride_bytes // word_bytes,
        k=_extents(pool.k, pool.page_size, word_bytes),
        v=_extents(pool.v, pool.page_size, word_bytes),
    )


def _extents(layout: RowLayout | None, page_size: int, word_bytes: int) -> Extents:
    if layout is None:
        return Extents(rows=1, row=0, stride=0)
    if layout.is_dense:
        # One long row, which spares the kernel a division for every word.
        run = page_size * layout.row_bytes // word_bytes
        return Extents(rows=1, row=run, stride=run)
    return Extents(
        rows=page_size,
        row=layout.row_bytes // word_bytes,
        stride=layout.row_stride_bytes // word_bytes,
    )
