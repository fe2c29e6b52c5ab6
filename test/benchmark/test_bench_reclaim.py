"""Evicting half gives half back where the rival says so, and loses nothing that stays."""

from pathlib import Path

import pytest

from benchmark.bench_reclaim import ReclaimCell, measure_reclaim
from benchmark.measure import WrongPagesError
from benchmark.rivals import RIVALS, RivalSpec
from benchmark.rivals.lmdb_map import LmdbMap

CELL = ReclaimCell(page_bytes=16384, prefix_pages=4, num_prefixes=16)


def test_a_map_that_never_shrinks_frees_nothing(tmp_path: Path) -> None:
    figures = measure_reclaim("lmdb", CELL, tmp_path / "run", seed=1)
    assert figures["freed"] <= 0
    assert figures["after_reclaim"] > 1.9
    assert not (tmp_path / "run").exists()


def test_blob_collection_frees_what_tombstones_did_not(tmp_path: Path) -> None:
    figures = measure_reclaim("blobdb", CELL, tmp_path / "run", seed=1)
    assert figures["after_delete"] > 1.9
    assert figures["after_reclaim"] < 1.5
    assert figures["written_per_freed"] > 0.3


def test_a_rival_that_evicts_too_much_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Greedy(LmdbMap):
        def get(self, path, out):
            return 0

    monkeypatch.setitem(RIVALS, "greedy", RivalSpec("greedy", "loses all", Greedy, evicts=True))
    with pytest.raises(WrongPagesError, match="missing"):
        measure_reclaim("greedy", CELL, tmp_path / "run", seed=1)
