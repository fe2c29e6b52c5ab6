"""What the kernels must do, in plain torch; on the CPU, also what does it.

Any device, no launch limits, a copy per buffer. The arguments and errors are those of the kernels.
"""

import torch

from sglang_lsm.kernels.paged_pool import PagedPool


def gather_pages_reference(pool: PagedPool, page_ids: torch.Tensor, out: torch.Tensor) -> None:
    """Copy the pages `page_ids` of `pool` into `out`; see `gather_pages`."""
    pool.check(page_ids, out)
    ids = page_ids.long()
    out.copy_(torch.cat([_pages(pool, rows)[ids].flatten(1) for rows in pool.buffers], dim=1))


def scatter_pages_reference(pool: PagedPool, page_ids: torch.Tensor, pages: torch.Tensor) -> None:
    """Copy `pages` to the places `page_ids` of `pool`; see `scatter_pages`."""
    pool.check(page_ids, pages, distinct=True)
    ids = page_ids.long()
    start = 0
    for rows in pool.buffers:
        run_bytes = pool.page_size * rows.shape[1]
        run = pages[:, start : start + run_bytes]
        _pages(pool, rows)[ids] = run.view(len(ids), pool.page_size, rows.shape[1])
        start += run_bytes


def _pages(pool: PagedPool, rows: torch.Tensor) -> torch.Tensor:
    """Return `[num_pages, page_size, row_bytes]`, a view of one buffer."""
    whole = rows[: pool.num_pages * pool.page_size]
    return whole.view(pool.num_pages, pool.page_size, rows.shape[1])
