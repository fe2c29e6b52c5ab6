"""Copy pages from one staging tensor to their places in the device pool, in one launch."""

import torch
import triton
import triton.language as tl

from sglang_lsm.kernels.page_tile import TILE_BYTES, launch, page_tile
from sglang_lsm.kernels.paged_pool import PagedPool


@triton.jit  # type: ignore[untyped-decorator]
def _scatter_pages_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - a kernel takes its geometry flat
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
    """Copy one tile of one run of one page from staging to the pool."""
    # fmt: off
    pool_ptrs, staging_ptrs, in_run = page_tile(
        addresses_ptr, page_ids_ptr, staging_ptr,
        WORD, VECTOR_BYTES, TILE, NUM_TILES, NUM_LAYERS, STAGING_STRIDE,
        K_ROWS, K_ROW, K_STRIDE, V_ROWS, V_ROW, V_STRIDE,
    )
    # fmt: on
    tl.store(pool_ptrs, tl.load(staging_ptrs, mask=in_run), mask=in_run)


def scatter_pages(
    pool: PagedPool, page_ids: torch.Tensor, pages: torch.Tensor, *, tile_bytes: int = TILE_BYTES
) -> None:
    """Copy `pages` to the places `page_ids` of `pool`; the inverse of `gather_pages`.

    Enqueued on the current stream: `pages` must not change, and the pool's rows not be read, before
    the stream is past it. Only the rows of these pages are written; with strided rows, what lies
    between them is left alone.

    Args:
        pool: the device pool.
        page_ids: `[P]` int32 or int64, contiguous, on the pool's device, each in
            `[0, pool.num_pages)` and no two alike, or the bytes of that page are undefined. Both
            are checked on the CPU alone.
        pages: `[P, pool.page_bytes]` uint8 on the pool's device, as `gather_pages` makes them.
        tile_bytes: bytes per program, a power of two; for tuning.

    Raises:
        ValueError: an argument does not fit; nothing was launched.

    Thread-safe. Cost: one launch; reads and writes P * pool.page_bytes each, in vectors as
    `gather_pages`.
    The first call for a pool compiles the kernel.
    """
    pool.check(page_ids, pages, distinct=True)
    launch(_scatter_pages_kernel, pool, page_ids, pages, tile_bytes)
