import pytest
import torch
from hypothesis import given, settings
from kernel_cases import Case, cases, make_memory
from sglang_lsm.kernels.paged_pool import PagedPool, RowLayout


@given(case=cases())
@settings(max_examples=50, deadline=None)
def test_alignment_divides_every_piece_and_is_the_largest(case: Case, device: torch.device) -> None:
    """A vector of `alignment` bytes never straddles the end of a piece; twice as wide would."""
    pool = make_memory(case, device).pool
    starts_and_ends = []
    for buffer in pool.buffers:
        for page_id in range(pool.num_pages):
            rows = buffer[page_id * pool.page_size : (page_id + 1) * pool.page_size]
            pieces = [rows.flatten()] if rows.is_contiguous() else list(rows)
            for piece in pieces:
                starts_and_ends += [piece.data_ptr(), piece.data_ptr() + piece.numel()]
    assert all(place % pool.alignment == 0 for place in starts_and_ends)
    wider = 2 * pool.alignment
    # Rows of one token a page show no stride, which may then be what limits the alignment.
    if pool.alignment < 16 and pool.page_size > 1:
        assert any(place % wider for place in starts_and_ends)


def test_mha_with_unequal_widths(device: torch.device) -> None:
    k = [torch.zeros(9, 2, 6, dtype=torch.bfloat16, device=device) for _ in range(3)]
    v = [torch.zeros(9, 2, 4, dtype=torch.bfloat16, device=device) for _ in range(3)]
    pool = PagedPool.of(k, v, page_size=4)
    assert (pool.num_layers, pool.num_pages) == (3, 2)
    assert (pool.k, pool.v) == (RowLayout(24, 24), RowLayout(16, 16))
    assert pool.page_bytes == 3 * 4 * (24 + 16)
    assert pool.addresses.tolist() == [buffer.data_ptr() for buffer in (*k, *v)]


def test_mla_and_a_strided_view(device: torch.device) -> None:
    wide = torch.zeros(8, 1, 48, dtype=torch.float16, device=device)
    pool = PagedPool.of([wide[:, :, 8:40]], page_size=2)
    assert (pool.k, pool.v) == (RowLayout(64, 96), None)
    assert (pool.page_bytes, pool.num_pages, pool.alignment) == (128, 4, 16)


def rows(num_slots: int = 8, width: int = 4) -> torch.Tensor:
    return torch.zeros(num_slots, width, dtype=torch.uint8)


BAD_POOLS = {
    "page_size must be at least 1": ([rows()], [], 0),
    "each layer needs K": ([], [], 2),
    "each layer needs K, or K and V. k=2 v=1": ([rows(), rows()], [rows()], 2),
    "same device and number of slots": ([rows()], [rows(num_slots=6)], 2),
    "same row width and stride": ([rows(), rows(width=8)], [], 2),
    "each row must be dense": ([rows(width=8)[:, ::2]], [], 2),
    "rows must not overlap": ([rows(num_slots=1).expand(8, 4)], [], 2),
    "k must be [num_slots, row...]": ([torch.zeros(8)], [], 2),
    "k must be [num_slots, row...]. shape=(8, 0)": ([rows(width=0)], [], 2),
    "at most 1 GiB": ([torch.empty(0, 1 << 20)], [], 1 << 10),
}


@pytest.mark.parametrize(("message", "pool"), BAD_POOLS.items(), ids=BAD_POOLS.keys())
def test_a_pool_that_cannot_be_copied_is_refused(
    message: str, pool: tuple[list[torch.Tensor], list[torch.Tensor], int]
) -> None:
    k, v, page_size = pool
    with pytest.raises(ValueError) as refusal:
        PagedPool.of(k, v, page_size=page_size)
    assert message in str(refusal.value)


def ids(*page_ids: int) -> torch.Tensor:
    return torch.tensor(page_ids, dtype=torch.int64)


def staging(num_pages: int, page_bytes: int = 8) -> torch.Tensor:
    return torch.zeros(num_pages, page_bytes, dtype=torch.uint8)


BAD_CALLS = {
    "page_ids must be [P] int32 or int64": (ids(0, 1).float(), staging(2)),
    "page_ids must be [P] int32 or int64. shape=(1, 2)": (ids(0, 1)[None], staging(2)),
    "page_ids must be contiguous": (ids(0, 1, 2)[::2], staging(2)),
    "staging must be [2, 8] uint8. shape=(1, 8)": (ids(0, 1), staging(1)),
    "staging must be [2, 8] uint8. shape=(2, 9)": (ids(0, 1), staging(2, 9)),
    "staging must be [2, 8] uint8. shape=(2, 8) dtype=torch.int8": (
        ids(0, 1),
        staging(2).view(torch.int8),
    ),
    "each page of staging must be dense": (ids(0, 1), staging(2, 16)[:, ::2]),
    "pages must not overlap": (ids(0, 1), staging(1).expand(2, 8)),
    "on the pool's device": (ids(0, 1).to("meta"), staging(2)),
    "page id outside the pool. min=-1": (ids(0, -1), staging(2)),
    "page id outside the pool. min=1 max=4 num_pages=4": (ids(1, 4), staging(2)),
}


@pytest.mark.parametrize(("message", "call"), BAD_CALLS.items(), ids=BAD_CALLS.keys())
def test_arguments_that_do_not_fit_are_refused(
    message: str, call: tuple[torch.Tensor, torch.Tensor]
) -> None:
    pool = PagedPool.of([rows()], page_size=2)
    with pytest.raises(ValueError) as refusal:
        pool.check(*call)
    assert message in str(refusal.value)
