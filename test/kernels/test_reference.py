import torch
from hypothesis import given, settings
from kernel_cases import POISON, Case, cases, make_memory, make_staging
from sglang_lsm.kernels.paged_pool import PagedPool
from sglang_lsm.kernels.reference import gather_pages_reference, scatter_pages_reference


def spelled_out(pool: PagedPool, page_id: int) -> list[int]:
    """Return the bytes of a page as the layout reads: K/V, layer, token, row."""
    slots = range(page_id * pool.page_size, (page_id + 1) * pool.page_size)
    return [byte for buffer in pool.buffers for slot in slots for byte in buffer[slot].tolist()]


@given(case=cases())
@settings(max_examples=50, deadline=None)
def test_gathers_in_the_order_of_the_layout(case: Case, device: torch.device) -> None:
    memory = make_memory(case, device)
    out, _ = make_staging(case, memory.pool, fill=POISON)
    gather_pages_reference(memory.pool, memory.page_ids, out)
    assert out.tolist() == [spelled_out(memory.pool, page_id) for page_id in case.page_ids]


@given(case=cases(distinct=True))
@settings(max_examples=50, deadline=None)
def test_scatters_in_the_order_of_the_layout(case: Case, device: torch.device) -> None:
    memory = make_memory(case, device)
    pages, _ = make_staging(case, memory.pool, fill=None)
    scatter_pages_reference(memory.pool, memory.page_ids, pages)
    assert pages.tolist() == [spelled_out(memory.pool, page_id) for page_id in case.page_ids]


def test_a_page_by_hand(device: torch.device) -> None:
    """Two layers, two tokens a page; K has two bytes a token, V one."""
    k = [torch.tensor([[10, 11], [12, 13], [14, 15], [16, 17]]), torch.arange(20, 28).view(4, 2)]
    v = [torch.tensor([[30], [31], [32], [33]]), torch.tensor([[40], [41], [42], [43]])]
    buffers = [[tensor.to(torch.uint8).to(device) for tensor in part] for part in (k, v)]
    pool = PagedPool.of(*buffers, page_size=2)
    out = torch.zeros(1, pool.page_bytes, dtype=torch.uint8, device=device)
    gather_pages_reference(pool, torch.tensor([1], device=device), out)
    assert out.tolist() == [[14, 15, 16, 17, 24, 25, 26, 27, 32, 33, 42, 43]]
