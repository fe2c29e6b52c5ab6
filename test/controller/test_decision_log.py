from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.controller.decision_log import (
    DECISIONS_NAME,
    DecisionLog,
    decision_line,
    read_decisions,
)
from sglang_lsm.fs import LocalFileSystem
from support.fake_fs import FakeDisk

FS = LocalFileSystem()
FOLDER = Path("store")


def test_decisions_come_back_in_order_also_after_a_restart(tmp_path):
    DecisionLog(FS, tmp_path).append({"event": "changed", "setting": "admission"})
    DecisionLog(FS, tmp_path).append({"event": "kept"})
    assert [entry["event"] for entry in read_decisions(FS, tmp_path)] == ["changed", "kept"]


def test_a_store_without_decisions_has_none(tmp_path):
    assert read_decisions(FS, tmp_path) == []


def test_the_files_stay_within_their_bound_and_the_newest_are_kept(tmp_path):
    log = DecisionLog(FS, tmp_path, max_bytes=2000)
    for number in range(500):
        log.append({"event": "changed", "number": number})
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4000
    numbers = [entry["number"] for entry in read_decisions(FS, tmp_path)]
    assert numbers == list(range(numbers[0], 500))
    assert len(numbers) > 20


@given(st.binary(max_size=300))
def test_garbage_costs_the_line_and_not_the_next_one(content):
    disk = FakeDisk()
    disk.make_dir(FOLDER)
    disk.replace(FOLDER / DECISIONS_NAME, content)
    DecisionLog(disk, FOLDER).append({"event": "kept", "time_ms": 5})
    assert read_decisions(disk, FOLDER)[-1] == {"event": "kept", "time_ms": 5}
    for entry in read_decisions(disk, FOLDER):
        assert decision_line(entry)


def test_a_disk_that_fails_costs_the_line_and_not_the_caller(tmp_path):
    gone = tmp_path / "gone"
    DecisionLog(FS, gone).append({"event": "kept"})
    assert not gone.exists()


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none())


@given(st.dictionaries(
    st.sampled_from(["time_ms", "event", "setting", "old", "new", "predicted", "measured_wait_s"]),
    values | st.dictionaries(st.sampled_from(["before", "after"]), values),
))  # fmt: skip
def test_every_entry_makes_one_line(entry):
    assert decision_line(entry)


def test_a_line_says_what_was_done_and_why():
    entry = {
        "time_ms": 1_700_000_000_000, "event": "rolled back", "setting": "log.io_mode",
        "old": "auto", "new": "direct", "measured_wait_s": 0.5, "without_the_change_wait_s": 0.3,
        "predicted": {"before": {"total_s": 0.4}, "after": {"total_s": 0.2}},
    }  # fmt: skip
    assert decision_line(entry) == (
        "2023-11-14 22:13:20  rolled back  log.io_mode auto -> direct  predicted 0.4 -> 0.2 s/s"
        "  waiting 0.5 s/s, 0.3 without the change"
    )
