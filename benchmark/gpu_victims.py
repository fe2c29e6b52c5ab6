"""The victims of `gpu_check`: device pages copied aside by the code that the server runs.

`DevicePages.take` is what the scheduler thread pays for; the writer's thread waits until the bytes
are in pinned memory. Both are timed, and the bytes are compared with the reference.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from sglang_lsm.kernels.paged_pool import PagedPool
from sglang_lsm.kernels.reference import gather_pages_reference

from benchmark.gpu_copies import Geometry, WrongBytesError, poisoned, some_pages
from benchmark.gpu_path import drain
from sglang_lsm_patch.device_pages import LAYOUTS, CopiedPages, DevicePages

VICTIM_PAGES = 64
"""4k tokens in pages of 64."""


@dataclass(frozen=True, slots=True)
class VictimTimes:
    """What copying the pages of one victim took, round by round."""

    geometry: str
    layout: str
    num_pages: int
    num_bytes: int
    num_batches: int
    scheduler_us: dict[int, float] = field(default_factory=dict)
    """Of the calling thread, for the whole victim."""
    arrival_ms: dict[int, float] = field(default_factory=dict)
    """From the first call until all the bytes are in host memory."""


def time_victims(geometry: Geometry, device: torch.device, *, rounds: int) -> Iterator[VictimTimes]:
    """Copy victims aside in both layouts, on a forward stream of their own.

    Raises:
        WrongBytesError: a page was not copied right.
    """
    num_pages = VICTIM_PAGES
    pool = geometry.make_pool(2 * num_pages, device, seed=4)
    # On a CPU there is none.
    forward = torch.cuda.Stream(device) if device.type == "cuda" else None
    for layout in LAYOUTS:
        copier = DevicePages(
            pool,
            layout=layout,
            staging_bytes=num_pages * pool.page_bytes,
            stream=lambda: forward,
        )
        num_batches = -(-num_pages // copier.batch_pages)
        num_bytes = num_pages * pool.page_bytes
        times = VictimTimes(geometry.name, layout, num_pages, num_bytes, num_batches)
        # The first round compiles the kernel and fills torch's own pool of memory.
        for number in range(-1, rounds):
            ids = some_pages(pool, num_pages, seed=number + 1)
            scheduler_us, arrival_ms = _evict(pool, copier, ids, layout)
            if number >= 0:
                times.scheduler_us[number], times.arrival_ms[number] = scheduler_us, arrival_ms
        yield times


def _evict(
    pool: PagedPool, copier: DevicePages, ids: torch.Tensor, layout: str
) -> tuple[float, float]:
    in_page = torch.arange(pool.page_size, device=pool.device)
    slots = (ids[:, None] * pool.page_size + in_page).flatten()
    drain(pool.device)
    before = time.perf_counter()
    batches: list[CopiedPages] = []
    num_taken = 0
    while num_taken < len(ids):
        copied = copier.take(slots[num_taken * pool.page_size :])
        if copied is None:
            raise WrongBytesError("no place was free for a victim, though all were given back")
        batches.append(copied)
        num_taken += len(copied.pages)
    scheduler_us = (time.perf_counter() - before) * 1e6
    for copied in batches:
        copied.wait()
    arrival_ms = (time.perf_counter() - before) * 1e3
    _check(pool, ids, batches, layout)
    for copied in batches:
        copied.give_back()
    return scheduler_us, arrival_ms


def _check(pool: PagedPool, ids: torch.Tensor, batches: Sequence[CopiedPages], layout: str) -> None:
    expected = poisoned(len(ids), pool)
    gather_pages_reference(pool, ids, expected)
    pages = [page for copied in batches for page in copied.pages]
    in_host = torch.stack([torch.frombuffer(page[0], dtype=torch.uint8) for page in pages])
    if layout == "page_first":
        in_host = _layers_first(pool, in_host)
    if not torch.equal(in_host, expected.cpu()):
        raise WrongBytesError(f"victims in {layout}")


def _layers_first(pool: PagedPool, pages: torch.Tensor) -> torch.Tensor:
    """Turn `[P, K/V, token, layer, row]` into `[P, K/V, layer, token, row]`, as bytes."""
    parts, start = [], 0
    for rows in filter(None, (pool.k, pool.v)):
        shape = (pool.page_size, pool.num_layers, rows.row_bytes)
        end = start + pool.num_layers * pool.page_size * rows.row_bytes
        parts.append(pages[:, start:end].unflatten(1, shape).transpose(1, 2).flatten(1))
        start = end
    return torch.cat(parts, dim=1)
