"""A store is opened after both kinds of stop, and each start finds all that was put."""

import pytest

from benchmark.bench_open import ChildDiedError, Settings, fill, measure_starts, run_child
from benchmark.publish.starts import body

SETTINGS = Settings(num_pages=512)


def test_both_starts_are_measured_and_find_their_pages(tmp_path) -> None:
    directory = tmp_path / "store"
    fill(SETTINGS, directory)
    starts = measure_starts(SETTINGS, directory, 1)
    assert [row["start"] for row in starts] == ["clean", "killed"]
    for row in starts:
        assert 0 < row["open_s"] <= row["first_hit_s"] <= row["table_s"]
        assert row["index_disk_bytes"] > 0
    told = body({"settings": {"num_pages": 512}, "starts": starts})
    assert "| clean" in told
    assert "| killed" in told


def _die(parent) -> None:
    raise SystemExit(3)


def test_a_process_that_dies_is_no_measurement() -> None:
    with pytest.raises(ChildDiedError, match="_die"):
        run_child(_die)


def test_only_whole_paths_are_stored() -> None:
    assert Settings(num_pages=300).num_stored == 256
