import dataclasses

import pytest
import torch
from hypothesis import given, settings
from kernel_cases import DTYPES, POISON, Case, cases, make_memory, make_staging
from sglang_lsm.kernels.gather_pages import gather_pages
from sglang_lsm.kernels.paged_pool import PagedPool
from sglang_lsm.kernels.reference import scatter_pages_reference
from sglang_lsm.kernels.scatter_pages import scatter_pages


def assert_scatters_like_the_reference(case: Case, device: torch.device) -> None:
    """Compare all memory of the pool: rows, gaps between them, spare slots, guards."""
    memory, expected = make_memory(case, device), make_memory(case, device)
    pages, all_of_pages = make_staging(case, memory.pool, fill=None)
    before = all_of_pages.clone()

    scatter_pages(memory.pool, memory.page_ids, pages, tile_bytes=case.tile_bytes)
    scatter_pages_reference(expected.pool, expected.page_ids, pages)

    assert all(map(torch.equal, memory.allocations, expected.allocations))
    assert torch.equal(all_of_pages, before)


@given(case=cases(distinct=True))
@settings(max_examples=50, deadline=None)
def test_equals_the_reference_and_writes_nothing_else(case: Case, device: torch.device) -> None:
    assert_scatters_like_the_reference(case, device)


@given(case=cases(distinct=True))
@settings(max_examples=25, deadline=None)
def test_scatter_of_gather_brings_every_page_back(case: Case, device: torch.device) -> None:
    """A pool overwritten by another prompt holds its old bytes again, and nothing else moved."""
    memory = make_memory(case, device)
    original = memory.snapshot()
    staging, _ = make_staging(case, memory.pool, fill=POISON)
    gather_pages(memory.pool, memory.page_ids, staging, tile_bytes=case.tile_bytes)

    rows = [slice(p * case.page_size, (p + 1) * case.page_size) for p in case.page_ids]
    for buffer in memory.pool.buffers:
        for slots in rows:
            buffer[slots] ^= 0xFF
    changed = [torch.equal(*pair) for pair in zip(original, memory.allocations, strict=True)]
    assert not any(changed) if case.page_ids else all(changed)

    scatter_pages(memory.pool, memory.page_ids, staging, tile_bytes=case.tile_bytes)
    assert all(map(torch.equal, memory.allocations, original))


NAMED_CASES = {
    **{f"{dtype}": Case(dtype=dtype, k_dim=16, v_dim=16) for dtype in DTYPES},
    "no pages": Case(page_ids=[]),
    "first and last page": Case(num_pages=5, page_ids=[4, 0]),
    "one token a page": Case(page_size=1, num_pages=9, page_ids=[8, 3, 0]),
    "V wider than K, many tiles": Case(k_dim=3, v_dim=40, tile_bytes=64),
    "strided rows": Case(k_dim=16, v_dim=16, k_gap=16, v_gap=48),
    "strided rows, odd widths": Case(k_dim=7, v_dim=5, k_gap=1, v_gap=2, num_heads=3),
    "MLA": Case(v_dim=0, num_heads=1, k_dim=36, dtype=torch.bfloat16),
    "run of 2049 bytes": Case(page_size=3, num_heads=1, k_dim=683, v_dim=1, tile_bytes=1024),
    "run of more than a default tile": Case(page_size=64, num_heads=2, k_dim=80, v_dim=80),
}


@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES.keys())
def test_named_shapes(case: Case, device: torch.device) -> None:
    assert_scatters_like_the_reference(case, device)
    assert_scatters_like_the_reference(dataclasses.replace(case, id_dtype=torch.int32), device)


def test_addresses_beyond_32_bits(device: torch.device) -> None:
    """The last page lies more than 2^32 one-byte words into its buffer, at an odd stride."""
    stride, num_slots = (1 << 20) + 1, 4200
    # Only the pages that are touched become resident.
    allocation = torch.empty(num_slots * stride, dtype=torch.uint8, device=device)
    buffer = allocation.as_strided((num_slots, 33), (stride, 1))
    buffer[-2:] = POISON
    pool = PagedPool.of([buffer], page_size=2)
    assert (pool.num_pages - 1) * pool.page_size * stride > 1 << 32

    pages = torch.arange(66, dtype=torch.uint8, device=device).view(1, 66)
    scatter_pages(pool, torch.tensor([pool.num_pages - 1], device=device), pages)

    assert buffer[-2:].flatten().tolist() == list(range(66))


@pytest.mark.skipif(torch.cuda.is_available(), reason="page ids on a GPU are not looked at")
def test_a_page_to_be_written_twice_is_refused(device: torch.device) -> None:
    case = Case(page_ids=[1, 0, 1])
    memory = make_memory(case, device)
    before = memory.snapshot()
    pages, _ = make_staging(case, memory.pool, fill=None)
    with pytest.raises(ValueError, match="distinct"):
        scatter_pages(memory.pool, memory.page_ids, pages)
    assert all(map(torch.equal, memory.allocations, before))
