"""Every rival gives back the bytes it was given, or is reported by name with the reason."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sglang_lsm.pages import PageBuffer, PagePath

from benchmark.pagedata import (
    Batches,
    PageSource,
    aligned_memory,
    benchmark_namespace,
    chained_hashes,
    split_pages,
)
from benchmark.rivals import RIVALS, Rival, RivalUnavailableError, Space, open_rival

PAGE_BYTES, NUM_PAGES, BATCH_PAGES = 8192, 48, 8

# SGLang's import and its loop's clean-up warn; the rival is what is tested.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(params=list(RIVALS))
def rival(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rival]:
    try:
        opened = open_rival(request.param, Space(tmp_path, PAGE_BYTES, NUM_PAGES))
    except RivalUnavailableError as error:
        pytest.skip(f"{request.param}: {error}")
    yield opened
    opened.close()


@pytest.fixture
def pages() -> list[PageBuffer]:
    return split_pages(aligned_memory(PAGE_BYTES * BATCH_PAGES), PAGE_BYTES)


def put_all(rival: Rival, batches: Batches, source: PageSource, pages: list[PageBuffer]) -> None:
    for path, numbers in batches:
        for page, number in zip(pages, numbers, strict=True):
            source.fill(page, number)
        rival.put(path, pages)


def assert_holds(rival: Rival, path: PagePath, numbers: Sequence[int], pages: list[PageBuffer]):
    source = PageSource(PAGE_BYTES)
    for page in pages:
        page[0][:] = b"\xa5" * PAGE_BYTES
    assert rival.get(path, pages) == len(numbers)
    for page, number in zip(pages, numbers, strict=True):
        assert source.matches(page, number)


def test_pages_come_back_hot_durable_and_cold(rival: Rival, pages: list[PageBuffer]) -> None:
    batches = Batches(num_pages=NUM_PAGES, batch_pages=BATCH_PAGES)
    put_all(rival, batches, PageSource(PAGE_BYTES), pages)
    for path, numbers in batches:
        assert_holds(rival, path, numbers, pages)
    rival.sync()
    assert rival.disk_bytes() >= PAGE_BYTES * NUM_PAGES
    rival.drop_page_cache()
    for index in (3, 0, 5, 1):
        path, numbers = batches.path(index)
        assert_holds(rival, path, numbers, pages)


def test_get_stops_at_the_first_missing_page(rival: Rival, pages: list[PageBuffer]) -> None:
    batches = Batches(num_pages=NUM_PAGES, batch_pages=BATCH_PAGES)
    path, numbers = batches.path(0)
    source = PageSource(PAGE_BYTES)
    for page, number in zip(pages, numbers, strict=True):
        source.fill(page, number)
    half = BATCH_PAGES // 2
    rival.put(replace(path, hashes=path.hashes[:half]), pages[:half])
    assert rival.get(path, pages) == half
    stranger = PagePath(benchmark_namespace(), chained_hashes("stranger", BATCH_PAGES))
    assert rival.get(stranger, pages) == 0


@pytest.mark.parametrize("rival", [n for n, s in RIVALS.items() if s.evicts], indirect=True)
def test_a_deleted_prefix_is_gone_and_the_others_stay(
    rival: Rival, pages: list[PageBuffer]
) -> None:
    source = PageSource(PAGE_BYTES)
    paths = [
        PagePath(benchmark_namespace(), chained_hashes(name, BATCH_PAGES)) for name in ("a", "b")
    ]
    for i, path in enumerate(paths):
        for j, page in enumerate(pages):
            source.fill(page, i * BATCH_PAGES + j)
        rival.put(path, pages)
    rival.delete(paths[0])
    rival.reclaim()
    assert rival.get(paths[0], pages) == 0
    assert_holds(rival, paths[1], range(BATCH_PAGES, 2 * BATCH_PAGES), pages)


def test_batches_cut_prefixes_and_name_each_page_once() -> None:
    batches = Batches(num_pages=40, batch_pages=4, prefix_pages=8)
    paths = [path for path, _ in batches]
    assert [path.start for path in paths] == [0, 4] * 5
    assert paths[1].hashes[:4] == paths[0].hashes
    assert len({page for path in paths for page in path.hashes}) == 40
    assert [number for _, numbers in batches for number in numbers] == list(range(40))


def test_the_source_tells_pages_and_their_blocks_apart() -> None:
    source = PageSource(PAGE_BYTES)
    memory = aligned_memory(2 * PAGE_BYTES)
    one, other = split_pages(memory, PAGE_BYTES)
    source.fill(one, 1)
    source.fill(other, 2)
    assert source.matches(one, 1)
    assert not source.matches(one, 2)
    # The second block of another page in place of our own.
    one[0][4096:] = other[0][4096:]
    assert not source.matches(one, 1)
