"""Page buffers are the pool's own memory: right bytes, no copy, no foreign slot."""

import ctypes

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.errors import ConfigError
from sglang_pools import NUM_PAGES, PAGE_SIZE, V_HEAD_DIM, mha_pool, mla_pool, slots

from sglang_lsm_patch.host_pages import ContiguousPages, ScatteredPages, host_pages

POOLS = {
    "mha page_first": lambda: mha_pool("page_first"),
    "mha page_first_direct": lambda: mha_pool("page_first_direct", dtype=torch.bfloat16),
    "mha page_head": lambda: mha_pool("page_head"),
    "mha layer_first": lambda: mha_pool("layer_first"),
    "asymmetric page_first": lambda: mha_pool("page_first", v_head_dim=V_HEAD_DIM),
    "asymmetric page_first_direct": lambda: mha_pool("page_first_direct", v_head_dim=V_HEAD_DIM),
    "mla page_first": lambda: mla_pool("page_first"),
    "mla page_first_direct": lambda: mla_pool("page_first_direct"),
    "mla layer_first": lambda: mla_pool("layer_first"),
}


@pytest.fixture(scope="module", params=POOLS)
def pool(request):
    return POOLS[request.param]()


@given(pages=st.permutations(range(NUM_PAGES)), num_pages=st.integers(0, NUM_PAGES))
def test_pieces_lie_where_the_pool_says(pool, pages, num_pages):
    chosen = slots(pages[:num_pages])
    addresses, lengths = pool.get_page_buffer_meta(chosen)

    buffers = host_pages(pool).buffers(chosen, num_pages)
    by_number = host_pages(pool).at(pages[:num_pages])
    assert [list(page) for page in by_number] == [list(page) for page in buffers]
    at = [
        ctypes.addressof(ctypes.c_ubyte.from_buffer(piece)) for page in by_number for piece in page
    ]
    assert at == addresses

    pieces = [piece for page in buffers for piece in page]
    assert len(buffers) == num_pages
    assert [piece.nbytes for piece in pieces] == lengths
    for piece, address in zip(pieces, addresses, strict=True):
        assert ctypes.addressof(ctypes.c_ubyte.from_buffer(piece)) == address
        assert (piece.format, piece.ndim, piece.readonly) == ("B", 1, False)


def test_page_first_layouts_take_the_fast_view(pool):
    expected = ScatteredPages if pool.layout == "layer_first" else ContiguousPages
    assert type(host_pages(pool)) is expected


def test_a_pool_that_states_other_addresses_is_asked_for_each_page(monkeypatch):
    pool = mha_pool("page_first")
    meta = type(pool).get_page_buffer_meta
    monkeypatch.setattr(
        pool,
        "get_page_buffer_meta",
        lambda indices: ([p + 8 for p in meta(pool, indices)[0]], meta(pool, indices)[1]),
    )
    assert type(host_pages(pool)) is ScatteredPages


def test_pages_are_written_through(pool):
    before, after = slots([2]), slots([4])
    source, target = (host_pages(pool).buffers(s, 1)[0] for s in (before, after))
    for piece, into in zip(source, target, strict=True):
        into[:] = piece
    a = [bytes(piece) for piece in host_pages(pool).buffers(slots([2]), 1)[0]]
    b = [bytes(piece) for piece in host_pages(pool).buffers(slots([4]), 1)[0]]
    assert a == b and any(a)


@pytest.mark.parametrize(
    ("indices", "num_pages"),
    [
        (slots([0, 1])[:-1], 2),
        (slots([0, 1]), 3),
        (slots([0]), 0),
        (slots([1000]), 1),
        (slots([-1]), 1),
    ],
)
def test_foreign_slots_are_refused(pool, indices, num_pages):
    with pytest.raises(ConfigError):
        host_pages(pool).buffers(indices, num_pages)


@pytest.mark.parametrize("pages", [[-1], [0, 1000]])
def test_pages_outside_of_the_pool_are_refused(pool, pages):
    with pytest.raises(ConfigError):
        host_pages(pool).at(pages)


def test_slots_that_start_inside_a_page_are_refused():
    with pytest.raises(ConfigError, match="do not start pages"):
        host_pages(mha_pool("page_first")).buffers(slots([1]) + PAGE_SIZE // 2, 1)
