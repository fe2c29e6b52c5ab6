"""Both disk tiers get the same budget and the same rules."""

import json
from pathlib import Path

from benchmark.tiers import disk_flags, pool_flags


def test_both_disk_tiers_get_the_same_budget() -> None:
    budget = 300_000_000
    file = disk_flags("file tuned", Path("d"), budget_bytes=budget)
    lsm = disk_flags("lsm", Path("d"), budget_bytes=budget)
    extra = json.loads(file[file.index("--hicache-storage-backend-extra-config") + 1])
    assert extra["max_size"] == str(budget)
    assert lsm[lsm.index("--kv-storage-size") + 1] == str(budget)
    ours = json.loads(lsm[lsm.index("--hicache-storage-backend-extra-config") + 1])
    assert ours["prefetch_threshold"] == extra["prefetch_threshold"]


def test_the_file_backend_as_it_comes_has_no_bound() -> None:
    file = disk_flags("file", Path("d"), budget_bytes=1, wait_complete=True)
    extra = json.loads(file[file.index("--hicache-storage-backend-extra-config") + 1])
    assert "max_size" not in extra
    assert file[file.index("--hicache-storage-prefetch-policy") + 1] == "wait_complete"


def test_a_small_budget_is_not_one_preallocated_segment() -> None:
    for budget in (20 << 20, 1 << 30, 1 << 40):
        lsm = disk_flags("lsm", Path("d"), budget_bytes=budget)
        log = json.loads(lsm[lsm.index("--kv-storage-config") + 1])["log"]
        assert budget >= 4 * log["segment_bytes"]
        assert log["segment_bytes"] % 4096 == 0


def test_the_row_without_a_disk_has_a_host_tier() -> None:
    assert "--enable-hierarchical-cache" in disk_flags("host", Path("d"), budget_bytes=1)
    assert "--page-size" in pool_flags(64, pool_tokens=1024)
