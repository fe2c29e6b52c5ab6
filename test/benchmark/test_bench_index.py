"""Every index answers the same questions alike."""

from pathlib import Path

import pytest
from sglang_lsm.config import IndexConfig
from sglang_lsm.keycodec import hash_tail
from sglang_lsm.pages import Location, PagePath

from benchmark import bench_index
from benchmark.bench_index import (
    CACHES,
    COLUMNS,
    FAMILY_PAGES,
    IndexCell,
    family_paths,
    insertions,
    measure_caches,
    measure_index,
)
from benchmark.index_rivals import INDEXES
from benchmark.pagedata import benchmark_namespace
from benchmark.rivals.interface import RivalUnavailableError
from benchmark.workers import Unmeasured

CELLS = [IndexCell(name, 3 * FAMILY_PAGES, "small", 20, 1) for name in INDEXES]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.index)
def test_an_index_answers_before_and_after_compaction_and_purge(
    cell: IndexCell, tmp_path: Path
) -> None:
    figures = measure_index(cell, tmp_path / "index")
    assert all(figures[name] > 0 for name in ("insert_us", "hit_p50_us", "compacted_half_p50_us"))
    assert ("open_ms" in figures) == INDEXES[cell.index].survives
    assert not (tmp_path / "index").exists()


def test_with_two_caches_the_entries_are_put_once_and_each_row_has_its_probes(
    tmp_path: Path,
) -> None:
    cells = [IndexCell("radix_path", 9 * FAMILY_PAGES, cache, 20, 1) for cache in CACHES]
    large, small = measure_caches(cells, tmp_path / "index")
    assert not isinstance(large, Unmeasured)
    assert not isinstance(small, Unmeasured)
    assert {*large} - {*small} == {"insert_us", "disk_bytes"}
    assert {title for title, _ in COLUMNS} <= {*large}
    assert not (tmp_path / "index").exists()


def test_an_index_that_cannot_run_has_the_reason_in_each_row(tmp_path: Path, monkeypatch) -> None:
    reason = Unmeasured("not here", failed=False)
    monkeypatch.setattr(bench_index, "run_alone", lambda work, *arguments: reason)
    cells = [IndexCell("radix_path", FAMILY_PAGES, cache, 5, 1) for cache in CACHES]
    assert measure_caches(cells, tmp_path / "index") == [reason] * 2


@pytest.mark.parametrize("name", list(INDEXES))
def test_purging_one_family_leaves_the_others(name: str, tmp_path: Path) -> None:
    index = INDEXES[name].open(tmp_path, IndexConfig())
    for family in (1, 2):
        for path in insertions(family):
            pages = path.hashes[path.start :]
            index.insert(path, [Location(1, 0, 4096, 7, hash_tail(page)) for page in pages])
    below = [page for path in insertions(1) for page in path.hashes[path.start :]]
    namespace = benchmark_namespace()
    try:
        index.purge(PagePath(namespace, family_paths(1)[0][:1]), below)
    except RivalUnavailableError:
        assert name == "group_ordered"
    else:
        assert [index.probe(PagePath(namespace, hashes)) for hashes in family_paths(1)] == [0] * 4
    assert [index.probe(PagePath(namespace, hashes)) for hashes in family_paths(2)] == [64] * 4
    index.close()


def test_a_family_stores_each_page_once() -> None:
    stored = [page for path in insertions(5) for page in path.hashes[path.start :]]
    assert len(stored) == len(set(stored)) == FAMILY_PAGES
    assert set(stored) == {page for hashes in family_paths(5) for page in hashes}
