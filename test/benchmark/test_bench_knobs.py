"""Settings that must come out large or small, by the device and the workload."""

import json
from pathlib import Path

import pytest

from benchmark.bench_knobs import (
    KNOBS,
    NOMINAL,
    Own,
    main,
    measure_own,
    profile_of,
    rows_of,
    windows,
)
from benchmark.publish.knobs import body

OWN = Own(get_s=1e-5, put_s=3e-5, ask_s=3e-6)
ROWS = {
    (row.device, row.workload, row.setting): row
    for row in rows_of({name: profile_of(device) for name, device in NOMINAL.items()}, OWN)
}


def spread(*place: str) -> float:
    row = ROWS[place]
    return row.worst_s / row.best_s - 1.0


def test_each_setting_is_looked_at_on_each_device_and_workload() -> None:
    assert len(ROWS) == len(NOMINAL) * len(windows(OWN)) * len(KNOBS)
    assert all(0 < row.best_s <= row.default_s <= row.worst_s for row in ROWS.values())


@pytest.mark.parametrize("device", ["SATA SSD", "network disk", "HDD"])
def test_memory_serves_a_hot_set_where_the_device_is_slower(device: str) -> None:
    assert ROWS[device, "hot set", "log.io_mode"].best == "buffered"
    assert spread(device, "hot set", "log.io_mode") > 1.0


def test_what_must_not_matter_does_not() -> None:
    for device in NOMINAL:
        assert spread(device, "hot set", "index.size_ratio") < 0.02
        assert spread(device, "new prompts", "log.merge_bytes_per_s") < 0.02
    # One arm reads one thing at a time.
    assert spread("HDD", "scattered, again", "log.reader_threads") < 0.02


def test_the_index_matters_more_with_smaller_pages() -> None:
    for device in NOMINAL:
        places = [
            (device, name, "index.size_ratio") for name in ("new, 4 KiB pages", "new prompts")
        ]
        assert spread(*places[0]) > spread(*places[1])


def test_our_own_work_is_measured_and_makes_what_is_left_matter_less(tmp_path: Path) -> None:
    own = measure_own(tmp_path)
    assert 0 < own.ask_s < own.put_s
    assert own.get_s > 0
    free = {
        (row.device, row.workload, row.setting): row
        for row in rows_of({"NVMe": profile_of(NOMINAL["NVMe"])}, Own(0.0, 0.0, 0.0))
    }
    place = ("NVMe", "new prompts", "index.memtable_bytes")
    assert spread(*place) < free[place].worst_s / free[place].best_s - 1.0


def test_the_tables_are_told(tmp_path: Path) -> None:
    out = tmp_path / "knobs.json"
    assert main(["--quick", "--dir", str(tmp_path), "--json", str(out)]) == 0
    text = body(json.loads(out.read_text()))
    assert all(f"#### {device}" in text for device in NOMINAL)
    assert all(f"| {knob}" in text for knob in KNOBS)
