"""An index that failed a write is opened anew, and only then, and never under somebody's feet."""

import threading
from pathlib import Path

import pytest
from sglang_lsm.config import IndexConfig
from sglang_lsm.errors import UnavailableError
from sglang_lsm.index import healing
from sglang_lsm.index.healing import RETRY_INTERVAL_S, HealingIndex
from support.fake_index import FakeIndex, FakeIndexDisk


class Opener:
    """Opens fake indexes, counts how often, and can be told to fail."""

    def __init__(self) -> None:
        self.disk = FakeIndexDisk()
        self.num_opened = 0
        self.now_s = 0.0

    def __call__(self) -> FakeIndex:
        self.num_opened += 1
        return self.disk.open(Path("index"))

    def healing(self) -> HealingIndex:
        return HealingIndex(self, clock=lambda: self.now_s)


def refuse(entries):
    """Stand for the write of an index that wants to be opened anew."""
    raise UnavailableError("the index takes no writes")


def test_a_disk_that_was_full_for_a_moment_takes_pages_again():
    opener = Opener()
    index = opener.healing()
    opener.disk.failing = True
    with pytest.raises(UnavailableError):
        index.put([(b"a", b"1")])
    opener.disk.failing = False
    opener.now_s += RETRY_INTERVAL_S
    index.put([(b"a", b"1")])
    assert index.get([b"a"]) == [b"1"]
    assert opener.num_opened == 2


def test_opens_at_most_once_an_interval_while_it_keeps_failing():
    opener = Opener()
    index = opener.healing()
    opener.disk.failing = True
    for _ in range(10):
        with pytest.raises(UnavailableError):
            index.put([(b"a", b"1")])
    assert opener.num_opened == 1
    for attempt in range(2, 5):
        opener.now_s += RETRY_INTERVAL_S
        for _ in range(3):
            with pytest.raises(UnavailableError):
                index.put([(b"a", b"1")])
        assert opener.num_opened == attempt


def test_a_busy_server_never_opened_it_again():
    """Each refused write began the wait anew, and there never were 5 s without one."""
    opener = Opener()
    index = opener.healing()
    opener.disk.failing = True
    with pytest.raises(UnavailableError):
        index.put([(b"a", b"1")])
    opener.disk.failing = False
    index._index.put = refuse
    for _ in range(4):
        opener.now_s += RETRY_INTERVAL_S / 5
        with pytest.raises(UnavailableError):
            index.put([(b"a", b"1")])
    opener.now_s += RETRY_INTERVAL_S / 5
    index.put([(b"a", b"1")])
    assert index.get([b"a"]) == [b"1"]
    assert opener.num_opened == 2


def test_reads_do_not_open_it():
    opener = Opener()
    index = opener.healing()
    opener.disk.failing = True
    opener.now_s += RETRY_INTERVAL_S
    with pytest.raises(UnavailableError):
        index.walk([b"a"])
    assert opener.num_opened == 1


def test_waits_for_a_scan_before_it_replaces_the_index():
    opener = Opener()
    index = opener.healing()
    index.put([(b"a", b"1"), (b"b", b"2")])
    scan = index.scan(b"", None)
    assert next(scan) == (b"a", b"1")
    opener.disk.failing = True
    with pytest.raises(UnavailableError):
        index.put([(b"c", b"3")])
    opener.disk.failing = False
    opener.now_s += RETRY_INTERVAL_S
    writer = threading.Thread(target=index.put, args=([(b"c", b"3")],))
    writer.start()
    # The writer cannot be seen waiting; what can be seen is that nothing was opened under the scan.
    assert opener.num_opened == 1
    assert list(scan) == [(b"b", b"2")]
    writer.join()
    assert opener.num_opened == 2
    assert index.get([b"c"]) == [b"3"]


def test_a_write_inside_a_scan_of_ones_own_waited_for_itself_for_ever(monkeypatch):
    monkeypatch.setattr(healing, "MAX_WAIT_S", 0.01)
    opener = Opener()
    index = opener.healing()
    index.put([(b"a", b"1"), (b"b", b"2")])
    opener.disk.failing = True
    with pytest.raises(UnavailableError):
        index.put([(b"c", b"3")])
    opener.disk.failing = False
    opener.now_s += RETRY_INTERVAL_S
    scan = index.scan(b"", None)
    assert next(scan) == (b"a", b"1")
    for _ in range(2):
        with pytest.raises(UnavailableError, match="in use"):
            index.delete([b"a"])
        # Reads go on, and so does the scan; the next attempt comes an interval later.
        assert index.get([b"a"]) == [b"1"]
        index.put([(b"d", b"4")])
        opener.now_s += RETRY_INTERVAL_S
    assert list(scan) == [(b"b", b"2")]
    assert opener.num_opened == 1
    index.delete([b"a"])
    assert opener.num_opened == 2


def test_settings_given_meanwhile_hold_after_it_is_opened_anew():
    opener, wanted = Opener(), IndexConfig(size_ratio=3)
    index = opener.healing()
    index.tune(wanted)
    opener.disk.failing = True
    with pytest.raises(UnavailableError):
        index.put([(b"a", b"1")])
    opener.disk.failing, opener.disk.tuned = False, None
    opener.now_s += RETRY_INTERVAL_S
    index.put([(b"a", b"1")])
    assert opener.disk.tuned == wanted
