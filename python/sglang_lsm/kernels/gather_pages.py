"""Copy pages that lie scattered over the device pool into one staging tensor, in one launch."""

import torch
import triton
import triton.language as tl

from sglang_lsm.kernels.page_tile import TILE_BYTES, launch, page_tile
from sglang_lsm.kernels.paged_pool import PagedPool


@triton.jit  # type: ignore[untyped-decorator]
def _gather_pages_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - a kernel takes its geometry flat
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
    """Copy one tile of one run of one page from the pool to staging."""
    # fmt: off
    pool_ptrs, staging_ptrs, in_run = page_tile(
        addresses_ptr, page_ids_ptr, staging_ptr,
        WORD, VECTOR_BYTES, TILE, NUM_TILES, NUM_LAYERS, STAGING_STRIDE,
        K_ROWS, K_ROW, K_STRIDE, V_ROWS, V_ROW, V_STRIDE,
    )
    # fmt: on
    tl.store(staging_ptrs, tl.load(pool_ptrs, mask=in_run), mask=in_run)


def gather_pages(
    pool: PagedPool, page_ids: torch.Tensor, out: torch.Tensor, *, tile_bytes: int = TILE_BYTES
) -> None:
    """Copy the pages `page_ids` of `pool` into `out`, page after page.

    Enqueued on the current stream: the pool's rows must not change, and `out` not be read, before
    the stream is past it. Bytes between pages of a padded `out` are left alone.

    Args:
        pool: the device pool.
        page_ids: `[P]` int32 or int64, contiguous, on the pool's device, each in
            `[0, pool.num_pages)`; repeats are fine. Their range is checked on the CPU alone.
        out: `[P, pool.page_bytes]` uint8 on the pool's device; each page dense, ordered
            `[K/V, layer, token, head, dim]`. It must not overlap the pool.
        tile_bytes: bytes per program, a power of two; for tuning.

    Raises:
        ValueError: an argument does not fit; nothing was launched.

    Thread-safe. Cost: one launch; reads and writes P * pool.page_bytes each, in 16-byte vectors if
    addresses and extents are multiples of 16, else in the widest that divides them.
    The first call for a pool compiles the kernel.
    """
    pool.check(page_ids, out)
    launch(_gather_pages_kernel, pool, page_ids, out, tile_bytes)
