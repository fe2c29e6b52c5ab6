import dataclasses

import pytest
import torch
from hypothesis import given, settings
from kernel_cases import DTYPES, POISON, Case, cases, make_memory, make_staging
from sglang_lsm.kernels.gather_pages import gather_pages
from sglang_lsm.kernels.paged_pool import PagedPool
from sglang_lsm.kernels.reference import gather_pages_reference


def assert_gathers_like_the_reference(case: Case, device: torch.device) -> None:
    """Compare all of staging's memory, guards and padding included, and see the pool unchanged."""
    memory = make_memory(case, device)
    before = memory.snapshot()
    out, all_of_out = make_staging(case, memory.pool, fill=POISON)
    expected, all_expected = make_staging(case, memory.pool, fill=POISON)

    gather_pages(memory.pool, memory.page_ids, out, tile_bytes=case.tile_bytes)
    gather_pages_reference(memory.pool, memory.page_ids, expected)

    assert torch.equal(all_of_out, all_expected)
    assert all(map(torch.equal, before, memory.allocations))


@given(case=cases())
@settings(max_examples=50, deadline=None)
def test_equals_the_reference_and_writes_nothing_else(case: Case, device: torch.device) -> None:
    assert_gathers_like_the_reference(case, device)


NAMED_CASES = {
    **{f"{dtype}": Case(dtype=dtype, k_dim=16, v_dim=16) for dtype in DTYPES},
    "no pages": Case(page_ids=[]),
    "a page twice": Case(page_ids=[1, 1, 2, 1]),
    "first and last page": Case(num_pages=5, page_ids=[0, 4]),
    "one token a page": Case(page_size=1, num_pages=9, page_ids=[8, 3, 0]),
    "V narrower than K": Case(k_dim=24, v_dim=16),
    "V wider than K, many tiles": Case(k_dim=3, v_dim=40, tile_bytes=64),
    "strided rows": Case(k_dim=16, v_dim=16, k_gap=16, v_gap=48),
    "strided rows, odd widths": Case(k_dim=7, v_dim=5, k_gap=1, v_gap=2, num_heads=3),
    "MLA": Case(v_dim=0, num_heads=1, k_dim=36, dtype=torch.bfloat16),
    "MLA, strided": Case(v_dim=0, num_heads=1, k_dim=36, k_gap=4, dtype=torch.bfloat16),
    "run of 1000 bytes": Case(page_size=8, num_heads=1, k_dim=125, v_dim=125),
    "run of 2049 bytes": Case(page_size=3, num_heads=1, k_dim=683, v_dim=1, tile_bytes=1024),
    "run of more than a default tile": Case(page_size=64, num_heads=2, k_dim=80, v_dim=80),
}


@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES.keys())
def test_named_shapes(case: Case, device: torch.device) -> None:
    assert_gathers_like_the_reference(case, device)
    assert_gathers_like_the_reference(dataclasses.replace(case, id_dtype=torch.int32), device)


def test_addresses_beyond_32_bits(device: torch.device) -> None:
    """The last page lies more than 2^32 one-byte words into its buffer, at an odd stride."""
    stride, num_slots = (1 << 20) + 1, 4200
    # Only the pages that are touched become resident.
    allocation = torch.empty(num_slots * stride, dtype=torch.uint8, device=device)
    buffer = allocation.as_strided((num_slots, 33), (stride, 1))
    buffer[-2:] = torch.arange(66, dtype=torch.uint8, device=device).view(2, 33)
    pool = PagedPool.of([buffer], page_size=2)
    assert pool.alignment == 1
    assert (pool.num_pages - 1) * pool.page_size * stride > 1 << 32

    out = torch.full((1, pool.page_bytes), POISON, dtype=torch.uint8, device=device)
    gather_pages(pool, torch.tensor([pool.num_pages - 1], device=device), out)

    assert out[0].tolist() == list(range(66))


@pytest.mark.skipif(torch.cuda.is_available(), reason="page ids on a GPU are not looked at")
@pytest.mark.parametrize("page_id", [-1, 3])
def test_page_id_outside_the_pool_is_refused(page_id: int, device: torch.device) -> None:
    case = Case(num_pages=3, page_ids=[0, page_id])
    memory = make_memory(case, device)
    out, all_of_out = make_staging(case, memory.pool, fill=POISON)
    with pytest.raises(ValueError, match="page id outside the pool"):
        gather_pages(memory.pool, memory.page_ids, out)
    assert (all_of_out == POISON).all()
