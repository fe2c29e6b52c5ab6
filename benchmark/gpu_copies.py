"""The page copies of `gpu_check`: are they right, how fast are they, and against what.

Import it only when it is settled whether the kernels are compiled or interpreted.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import torch
from sglang_lsm.kernels.gather_pages import gather_pages
from sglang_lsm.kernels.paged_pool import PagedPool
from sglang_lsm.kernels.reference import gather_pages_reference, scatter_pages_reference
from sglang_lsm.kernels.scatter_pages import scatter_pages

POISON = 0xA5
TILE_SIZES = (2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The KV of one model on one rank; `v_dim` 0 is MLA, a `row_gap` leaves rows strided."""

    name: str
    dtype: torch.dtype
    num_layers: int
    num_heads: int
    k_dim: int
    v_dim: int
    page_size: int = 64
    row_gap: int = 0

    def make_pool(self, num_pages: int, device: torch.device, *, seed: int) -> PagedPool:
        """Allocate a device pool of random bytes, laid out as SGLang lays out its own."""
        generator = torch.Generator(device).manual_seed(seed)

        def buffers(dim: int) -> list[torch.Tensor]:
            width = self.num_heads * dim * self.dtype.itemsize
            shape = (num_pages * self.page_size, width + self.row_gap)
            options = {"dtype": torch.uint8, "device": device, "generator": generator}
            layers = range(self.num_layers if dim else 0)
            return [torch.randint(0, 256, shape, **options)[:, :width] for _ in layers]

        return PagedPool.of(buffers(self.k_dim), buffers(self.v_dim), page_size=self.page_size)


GPU_GEOMETRIES = (
    Geometry(
        name="GQA bf16, 32 layers x 8 heads x 128",
        dtype=torch.bfloat16,
        num_layers=32,
        num_heads=8,
        k_dim=128,
        v_dim=128,
    ),
    Geometry(
        name="GQA fp8, 64 layers x 8 heads x 128",
        dtype=torch.float8_e4m3fn,
        num_layers=64,
        num_heads=8,
        k_dim=128,
        v_dim=128,
    ),
    Geometry(
        name="K 192, V 128, bf16, 32 layers x 8 heads",
        dtype=torch.bfloat16,
        num_layers=32,
        num_heads=8,
        k_dim=192,
        v_dim=128,
    ),
    Geometry(
        name="MLA bf16, 61 layers x 576",
        dtype=torch.bfloat16,
        num_layers=61,
        num_heads=1,
        k_dim=576,
        v_dim=0,
    ),
    Geometry(
        name="GQA bf16, strided rows",
        dtype=torch.bfloat16,
        num_layers=32,
        num_heads=8,
        k_dim=128,
        v_dim=128,
        row_gap=2048,
    ),
)
TINY_GEOMETRIES = (
    Geometry(
        name="tiny GQA bf16",
        dtype=torch.bfloat16,
        num_layers=2,
        num_heads=2,
        k_dim=8,
        v_dim=8,
        page_size=4,
    ),
    Geometry(
        name="tiny K 12, V 8, fp8",
        dtype=torch.float8_e4m3fn,
        num_layers=2,
        num_heads=1,
        k_dim=12,
        v_dim=8,
        page_size=4,
    ),
    Geometry(
        name="tiny MLA bf16, strided rows",
        dtype=torch.bfloat16,
        num_layers=3,
        num_heads=1,
        k_dim=9,
        v_dim=0,
        page_size=4,
        row_gap=6,
    ),
)


class WrongBytesError(Exception):
    """A copy, or the whole path, did not bring the bytes that it should."""


def check_copies(geometry: Geometry, device: torch.device, *, num_pages: int) -> None:
    """Compare both kernels with the reference, over all of the pool, for several batch sizes.

    Raises:
        WrongBytesError: they differ.
    """
    for count in sorted({0, 1, num_pages // 2, num_pages}):
        pool, expected_pool = (geometry.make_pool(num_pages, device, seed=1) for _ in range(2))
        ids = some_pages(pool, count, seed=count)
        out, expected = (poisoned(count, pool) for _ in range(2))
        # A page gathered twice is legal; scattered twice it is not.
        repeated = torch.cat([ids[: count // 2], ids[: count - count // 2]])
        gather_pages(pool, repeated, out)
        gather_pages_reference(pool, repeated, expected)
        if not torch.equal(out, expected):
            raise WrongBytesError(f"gather of {count} pages: {geometry.name}")
        pages = torch.randint_like(out, 256)
        scatter_pages(pool, ids, pages)
        scatter_pages_reference(expected_pool, ids, pages)
        if not all(map(torch.equal, pool.buffers, expected_pool.buffers)):
            raise WrongBytesError(f"scatter of {count} pages: {geometry.name}")


def some_pages(pool: PagedPool, count: int, *, seed: int) -> torch.Tensor:
    """Return `count` different page ids in random order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(pool.num_pages, generator=generator)[:count].to(pool.device)


def poisoned(count: int, pool: PagedPool) -> torch.Tensor:
    """Return staging for `count` pages whose every byte is known to be none of theirs to keep."""
    shape = (count, pool.page_bytes)
    return torch.full(shape, POISON, dtype=torch.uint8, device=pool.device)


@dataclass(frozen=True, slots=True)
class Timing:
    """What one way to copy took, round by round."""

    geometry: str
    num_pages: int
    num_bytes: int
    """Bytes of the pages; each is read once and written once."""
    way: str
    device_ms: dict[int, float] = field(default_factory=dict)
    host_us: dict[int, float] = field(default_factory=dict)
    """Until the call came back: what the thread that launches pays."""


Timer: TypeAlias = Callable[[Callable[[], object], int], tuple[float, float]]
"""Makes so many calls; returns, for one, milliseconds on the device, microseconds on the host."""


def cuda_timer(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Time `repeats` calls in a row between two events of the current stream."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    before = time.perf_counter()
    for _ in range(repeats):
        call()
    host_us = (time.perf_counter() - before) / repeats * 1e6
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats, host_us


def time_copies(
    geometry: Geometry,
    device: torch.device,
    *,
    counts: Sequence[int],
    rounds: int,
    timer: Timer = cuda_timer,
) -> Iterator[Timing]:
    """Time all ways to move `counts` pages, taking turns inside each round."""
    pool = geometry.make_pool(3 * max(counts), device, seed=2)
    for count in counts:
        ids = some_pages(pool, count, seed=count)
        ways = ways_to_copy(pool, ids)
        num_bytes = count * pool.page_bytes
        timings = {way: Timing(geometry.name, count, num_bytes, way) for way in ways}
        _take_turns(ways, timings, rounds, timer)
        yield from timings.values()


def time_tiles(
    geometry: Geometry,
    device: torch.device,
    *,
    num_pages: int,
    rounds: int,
    timer: Timer = cuda_timer,
) -> Iterator[Timing]:
    """Time gather and scatter with other tiles than theirs, and the copy that they are held to."""
    pool = geometry.make_pool(3 * num_pages, device, seed=2)
    ids = some_pages(pool, num_pages, seed=num_pages)
    staging, other = poisoned(num_pages, pool), poisoned(num_pages, pool)
    ways: dict[str, Callable[[], object]] = {"device-to-device copy": lambda: other.copy_(staging)}
    for tile_bytes in TILE_SIZES:
        for kernel in (gather_pages, scatter_pages):
            name = f"{kernel.__name__}, tile {tile_bytes >> 10} KiB"
            ways[name] = partial(kernel, pool, ids, staging, tile_bytes=tile_bytes)
    num_bytes = num_pages * pool.page_bytes
    timings = {way: Timing(geometry.name, num_pages, num_bytes, way) for way in ways}
    _take_turns(ways, timings, rounds, timer)
    yield from timings.values()


def _take_turns(
    ways: Mapping[str, Callable[[], object]],
    timings: Mapping[str, Timing],
    rounds: int,
    timer: Timer,
) -> None:
    for call in ways.values():
        timer(call, 3)
    for number, way in itertools.product(range(rounds), ways):
        device_ms, host_us = timer(ways[way], 10)
        timings[way].device_ms[number] = device_ms
        timings[way].host_us[number] = host_us


def ways_to_copy(pool: PagedPool, ids: torch.Tensor) -> Mapping[str, Callable[[], object]]:
    """Return the kernels and their rivals by name; the rivals move words of 8 bytes if they can."""
    staging, other = poisoned(len(ids), pool), poisoned(len(ids), pool)
    layers = [_as_pages(pool, buffer) for buffer in pool.buffers]
    by_layer = [torch.empty_like(layer[ids]) for layer in layers]

    def select() -> None:
        for layer, out in zip(layers, by_layer, strict=True):
            torch.index_select(layer, 0, ids, out=out)

    def select_and_reorder() -> torch.Tensor:
        select()
        runs = [part.view(torch.uint8).flatten(1) for part in by_layer]
        return torch.cat(runs, dim=1, out=other)

    def copy_back() -> None:
        for layer, part in zip(layers, by_layer, strict=True):
            layer.index_copy_(0, ids, part)

    return {
        "device-to-device copy": lambda: other.copy_(staging),
        "gather_pages": lambda: gather_pages(pool, ids, staging),
        "index_select per layer, order left": select,
        "index_select per layer, reordered": select_and_reorder,
        "scatter_pages": lambda: scatter_pages(pool, ids, staging),
        "index_copy per layer": copy_back,
    }


def _as_pages(pool: PagedPool, buffer: torch.Tensor) -> torch.Tensor:
    """Return `[num_pages, page_size, words]`, a view."""
    in_words = pool.alignment >= 8 and buffer.shape[1] % 8 == 0
    words = buffer.view(torch.int64) if in_words else buffer
    return words.view(pool.num_pages, pool.page_size, words.shape[1])
