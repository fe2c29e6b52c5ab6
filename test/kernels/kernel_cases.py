"""Pools and staging of every shape, in memory whose every other byte is known."""

from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from sglang_lsm.kernels.paged_pool import PagedPool

POISON = 0xA5
DTYPES = (torch.uint8, torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pool, and what is asked of it. Widths, gaps and offsets count elements of `dtype`."""

    dtype: torch.dtype = torch.uint8
    num_layers: int = 2
    page_size: int = 4
    num_pages: int = 3
    spare_slots: int = 0
    num_heads: int = 2
    k_dim: int = 8
    v_dim: int = 8
    k_gap: int = 0
    v_gap: int = 0
    offset: int = 0
    page_ids: list[int] = field(default_factory=lambda: [2, 0])
    id_dtype: torch.dtype = torch.int64
    staging_pad_bytes: int = 0
    staging_offset_bytes: int = 0
    tile_bytes: int = 8192
    seed: int = 0


@dataclass(frozen=True)
class Memory:
    """The pool of a case, its page ids, and all the memory its buffers lie in."""

    pool: PagedPool
    page_ids: torch.Tensor
    allocations: list[torch.Tensor]
    """One uint8 tensor per buffer: guard, rows with their gaps, guard."""

    def snapshot(self) -> list[torch.Tensor]:
        return [allocation.clone() for allocation in self.allocations]


@st.composite
def cases(draw: st.DrawFn, *, distinct: bool = False) -> Case:
    """Draw small pools: odd widths, gaps, misaligned starts, MLA (`v_dim` 0), any page order."""
    num_pages = draw(st.integers(1, 4))
    ids = st.integers(0, num_pages - 1)
    return Case(
        dtype=draw(st.sampled_from(DTYPES)),
        num_layers=draw(st.integers(1, 2)),
        page_size=draw(st.integers(1, 5)),
        num_pages=num_pages,
        spare_slots=draw(st.integers(0, 2)),
        num_heads=draw(st.integers(1, 2)),
        k_dim=draw(st.one_of(st.integers(1, 9), st.sampled_from([16, 32]))),
        v_dim=draw(st.one_of(st.integers(0, 9), st.sampled_from([16, 32]))),
        k_gap=draw(st.integers(0, 3)),
        v_gap=draw(st.integers(0, 3)),
        offset=draw(st.integers(0, 2)),
        page_ids=draw(st.lists(ids, max_size=4, unique=distinct)),
        id_dtype=draw(st.sampled_from([torch.int32, torch.int64])),
        staging_pad_bytes=draw(st.sampled_from([0, 0, 1, 7, 16])),
        staging_offset_bytes=draw(st.sampled_from([0, 0, 1, 8])),
        tile_bytes=draw(st.sampled_from([64, 256, 8192])),
        seed=draw(st.integers(0, 9)),
    )


def make_memory(case: Case, device: torch.device) -> Memory:
    """Lay out the pool of a case. All bytes are random: gaps and guards as well as rows."""
    generator = torch.Generator().manual_seed(case.seed)
    num_slots = case.page_size * case.num_pages + case.spare_slots
    allocations: list[torch.Tensor] = []

    def buffers(dim: int, gap: int) -> list[torch.Tensor]:
        made = []
        row = case.num_heads * dim
        for _ in range(case.num_layers if dim else 0):
            num_elements = 64 + case.offset + num_slots * (row + gap) + 64
            size = num_elements * case.dtype.itemsize
            allocation = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
            allocations.append(allocation.to(device))
            made.append(
                allocations[-1]
                .view(case.dtype)
                .as_strided((num_slots, case.num_heads, dim), (row + gap, dim, 1), 64 + case.offset)
            )
        return made

    k, v = buffers(case.k_dim, case.k_gap), buffers(case.v_dim, case.v_gap)
    pool = PagedPool.of(k, v, page_size=case.page_size)
    page_ids = torch.tensor(case.page_ids, dtype=case.id_dtype, device=device)
    return Memory(pool, page_ids, allocations)


def make_staging(
    case: Case, pool: PagedPool, *, fill: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `[P, page_bytes]` staging and all its memory, filled with a byte or at random."""
    stride = pool.page_bytes + case.staging_pad_bytes
    start = 64 + case.staging_offset_bytes
    size = start + len(case.page_ids) * stride + 64
    if fill is None:
        generator = torch.Generator().manual_seed(case.seed + 1)
        allocation = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
    else:
        allocation = torch.full((size,), fill, dtype=torch.uint8)
    allocation = allocation.to(pool.device)
    shape = (len(case.page_ids), pool.page_bytes)
    return allocation.as_strided(shape, (stride, 1), start), allocation
