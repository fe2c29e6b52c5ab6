"""The whole path of `gpu_check`: device pool -> staging -> pinned memory -> store, and back."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from sglang_lsm.config import MIB, LogConfig, StoreConfig
from sglang_lsm.kernels.gather_pages import gather_pages
from sglang_lsm.kernels.paged_pool import PagedPool
from sglang_lsm.kernels.scatter_pages import scatter_pages
from sglang_lsm.pages import Fingerprint, PageBuffer, PagePath
from sglang_lsm.store import Store

from benchmark.gpu_copies import POISON, Geometry, WrongBytesError, poisoned, some_pages
from benchmark.pagedata import chained_hashes

STAGES = ("gather", "D2H", "put_batch", "get_batch", "H2D", "scatter")


@dataclass(frozen=True, slots=True)
class PathTimes:
    """Seconds of each stage, round by round; a stage ends when its bytes have arrived."""

    geometry: str
    num_pages: int
    num_bytes: int
    seconds: dict[str, dict[int, float]] = field(
        default_factory=lambda: {stage: {} for stage in STAGES}
    )

    @contextmanager
    def stage(self, name: str, number: int, device: torch.device) -> Iterator[None]:
        """Time the block as one stage of round `number`."""
        drain(device)
        before = time.perf_counter()
        yield
        drain(device)
        self.seconds[name][number] = time.perf_counter() - before


def run_path(
    geometry: Geometry, device: torch.device, directory: Path, *, num_pages: int, rounds: int
) -> PathTimes:
    """Evict pages to a new store in `directory` and load them again; the page cache is dropped.

    Raises:
        WrongBytesError: a page was missing, or came back changed.
    """
    pool = geometry.make_pool(2 * num_pages, device, seed=3)
    segment_bytes = (256 if device.type == "cuda" else 1) * MIB
    # Room for every round, so that nothing is evicted while we measure.
    quota_bytes = 2 * (rounds * num_pages * pool.page_bytes) + 8 * segment_bytes
    config = StoreConfig(quota_bytes=quota_bytes, log=LogConfig(segment_bytes=segment_bytes))
    times = PathTimes(geometry.name, num_pages, num_pages * pool.page_bytes)
    store = Store.open(directory, config)
    try:
        namespace = store.register(_fingerprint(geometry))
        for number in range(rounds):
            path = PagePath(namespace, chained_hashes(f"{geometry.name}/{number}", num_pages))
            _there_and_back(pool, store, path, times, number)
    finally:
        store.close()
    return times


def _there_and_back(
    pool: PagedPool, store: Store, path: PagePath, times: PathTimes, number: int
) -> None:
    device, count = pool.device, path.num_pages
    ids = some_pages(pool, count, seed=number)
    staging, back = poisoned(count, pool), poisoned(count, pool)
    on_gpu = device.type == "cuda"
    host = torch.full(staging.shape, POISON, dtype=torch.uint8, pin_memory=on_gpu)
    pages = _page_buffers(pool, host)

    with times.stage("gather", number, device):
        gather_pages(pool, ids, staging)
    with times.stage("D2H", number, device):
        host.copy_(staging, non_blocking=True)
    digest = hashlib.sha256(host.numpy()).digest()
    with times.stage("put_batch", number, device):
        store.put_batch(path, pages)

    store.drop_cache()
    host.fill_(POISON)
    with times.stage("get_batch", number, device):
        num_loaded = store.get_batch(path, pages)
    if num_loaded != count or hashlib.sha256(host.numpy()).digest() != digest:
        raise WrongBytesError(f"from the store: {times.geometry}, {num_loaded} of {count} pages")
    for buffer in pool.buffers:
        buffer.fill_(POISON)
    with times.stage("H2D", number, device):
        back.copy_(host, non_blocking=True)
    with times.stage("scatter", number, device):
        scatter_pages(pool, ids, back)

    again = poisoned(count, pool)
    gather_pages(pool, ids, again)
    if not torch.equal(again, staging):
        raise WrongBytesError(f"from the pool: {times.geometry}, {count} pages")


def _page_buffers(pool: PagedPool, host: torch.Tensor) -> list[PageBuffer]:
    """Cut each page of `host` into the pieces that the store takes: K, then V unless MLA."""
    k_bytes = pool.num_layers * pool.page_size * pool.k.row_bytes
    views = [memoryview(page) for page in host.numpy()]
    if pool.v is None:
        return [(view,) for view in views]
    return [(view[:k_bytes], view[k_bytes:]) for view in views]


def _fingerprint(geometry: Geometry) -> Fingerprint:
    return Fingerprint(
        model=geometry.name,
        kv_dtype=str(geometry.dtype),
        layout="page_first_direct",
        page_size=geometry.page_size,
        num_layers=geometry.num_layers,
        num_kv_heads=geometry.num_heads,
        head_dim=geometry.k_dim,
        v_head_dim=geometry.v_dim,
    )


def drain(device: torch.device) -> None:
    """Wait until the device has done all that was enqueued on the current stream."""
    if device.type == "cuda":
        event = torch.cuda.Event()
        event.record()
        event.synchronize()
