"""Both disk tiers get the same budget and the same rules."""

import json
from pathlib import Path

from benchmark.tiers import BACKENDS, POLICIES, disk_flags, pool_flags


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


def test_our_rows_differ_by_the_write_policy_alone() -> None:
    flags = {name: disk_flags(name, Path("d"), budget_bytes=1 << 30) for name in POLICIES}
    for name, policy in POLICIES.items():
        mine = [("POLICY" if flag == policy else flag) for flag in flags[name]]
        assert mine == [("POLICY" if flag == "through" else flag) for flag in flags["lsm"]]


def test_the_bound_moves_nothing_and_waits_for_nothing() -> None:
    sim = disk_flags("sim", Path("d"), budget_bytes=1)
    extra = json.loads(sim[sim.index("--hicache-storage-backend-extra-config") + 1])
    assert (extra["sim_write_gbps"], extra["sim_op_latency_us"]) == (0, 0)
    assert all(disk_flags(name, Path("d"), budget_bytes=1 << 30) for name in BACKENDS)


def test_the_host_pool_has_room_beside_its_copies_of_the_device() -> None:
    flags = pool_flags(64, pool_tokens=1024)
    assert float(flags[flags.index("--hicache-ratio") + 1]) == 2.0
