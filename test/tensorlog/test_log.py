import mmap
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm import format
from sglang_lsm.config import LogConfig
from sglang_lsm.errors import UnavailableError
from sglang_lsm.format import BLOCK_BYTES
from sglang_lsm.tensorlog.log import TensorLog
from sglang_lsm.tensorlog.segment import Segment
from support.fake_fs import FakeDisk, FakeFile
from support.page_maker import SEGMENT_BYTES, empty_pages, joined

DIRECTORY = Path("/log")


def open_log(disk, **settings):
    config = LogConfig(segment_bytes=SEGMENT_BYTES, reader_threads=2, **settings)
    return TensorLog(
        disk, DIRECTORY, config, admit=lambda segment_id, num_bytes: None, clock_ms=lambda: 1
    )


def pages_with(lengths, first=0):
    """Return keys, hash tails and pages of the lengths given, all different."""
    keys = [b"key %8d" % (first + i) for i in range(len(lengths))]
    tails = [b"%8d" % (first + i) for i in range(len(lengths))]
    pages = [[memoryview(key * (n // len(key) + 1))[:n]] for key, n in zip(keys, lengths)]  # noqa: B905
    return keys, tails, pages


def read_back(log, keys, locations, pages):
    out = [empty_pages(1, [len(page[0])])[0] for page in pages]
    result = log.read(keys, locations, out)
    for page, got, intact in zip(pages, out, result.intact, strict=True):
        assert not intact or joined(got) == joined(page)
    return result


calls = st.lists(st.lists(st.integers(1, 200_000), min_size=1, max_size=12), min_size=1, max_size=6)


@given(calls, st.sampled_from([4096, 65536, 4 << 20]))
def test_what_is_appended_is_read_back_and_does_not_overlap(lengths, io_bytes):
    disk, everything = FakeDisk(), []
    log = open_log(disk, io_bytes=io_bytes)
    for number, each in enumerate(lengths):
        keys, tails, pages = pages_with(each, first=100 * number)
        locations = log.append(keys, tails, pages)
        everything += zip(keys, locations, pages, strict=True)
    keys, locations, pages = zip(*everything, strict=True)
    taken = [
        (at.segment_id, block)
        for at in locations
        for block in range(at.offset // BLOCK_BYTES, -(-(at.offset + at.length) // BLOCK_BYTES))
    ]
    assert len(taken) == len(set(taken))
    assert all(at.offset % BLOCK_BYTES == 0 for at in locations)
    assert all(at.offset + at.length <= SEGMENT_BYTES for at in locations)
    assert all(read_back(log, keys, locations, pages).intact)
    assert log.allocated_bytes() >= disk.used_bytes("*.seg")
    log.close()
    log = open_log(disk)
    assert all(read_back(log, keys, locations, pages).intact)
    named = {
        entry.key: at
        for segment_id in log.segment_ids()
        for batch in log.batches(segment_id)
        for entry, at in zip(batch.entries, batch.locations(), strict=True)
    }
    assert named == dict(zip(keys, locations, strict=True))
    log.close()


def test_a_dropped_segment_is_no_longer_there():
    disk = FakeDisk()
    log = open_log(disk)
    keys, tails, pages = pages_with([200_000] * 8)
    locations = log.append(keys, tails, pages)
    first, *_ = log.sealed_ids()
    log.drop(first)
    log.drop(first)
    assert not log.has(first)
    assert log.batches(first) == []
    intact = read_back(log, keys, locations, pages).intact
    assert intact == [at.segment_id != first for at in locations]
    assert disk.used_bytes("*.seg") == log.allocated_bytes()
    log.close()


def test_a_segment_that_cannot_be_deleted_still_counts():
    """Its bytes once vanished from the account while they stayed on the disk."""
    disk = FakeDisk()
    log = open_log(disk)
    log.append(*pages_with([200_000] * 8))
    first, *_ = log.sealed_ids()
    disk.failing = {"unlink"}
    with pytest.raises(UnavailableError):
        log.drop(first)
    assert log.allocated_bytes() >= disk.used_bytes("*.seg")
    disk.failing = set()
    log.drop(first)
    assert disk.used_bytes("*.seg") == log.allocated_bytes()
    log.close()


def test_sync_covers_segments_that_are_full_already():
    """Only the newest segment was synced once: a power loss took the pages of the others."""
    disk = FakeDisk()
    log = open_log(disk)
    keys, tails, pages = pages_with([200_000] * 12)
    locations = log.append(keys, tails, pages)
    assert len({at.segment_id for at in locations}) > 2
    log.sync()
    for seed in range(5):
        disk.lose_power(seed)
        log = open_log(disk)
        assert all(read_back(log, keys, locations, pages).intact)


def test_sync_is_tried_again_after_it_failed():
    disk = FakeDisk()
    log = open_log(disk)
    keys, tails, pages = pages_with([200_000] * 12)
    locations = log.append(keys, tails, pages)
    disk.failing = {"sync"}
    with pytest.raises(UnavailableError):
        log.sync()
    disk.failing = set()
    log.sync()
    disk.lose_power(1)
    assert all(read_back(open_log(disk), keys, locations, pages).intact)


def test_a_sync_waits_for_one_that_is_under_way(monkeypatch):
    """It found nothing left to sync and returned; a copy then gave back places that were durable.

    Pages were lost with the power, the old place punched and the new one never written.
    """
    disk = FakeDisk()
    log = open_log(disk)
    keys, tails, pages = pages_with([5000])
    log.append(keys, tails, pages)
    syncing, goes_on, synced = threading.Event(), threading.Event(), []
    sync = FakeFile.sync

    def slow_sync(file):
        syncing.set()
        assert goes_on.wait(10)
        sync(file)
        synced.append("file")

    def second():
        log.sync()
        synced.append("second")

    monkeypatch.setattr(FakeFile, "sync", slow_sync)
    threads = [threading.Thread(target=log.sync), threading.Thread(target=second)]
    threads[0].start()
    assert syncing.wait(10)
    threads[1].start()
    threads[1].join(0.05)
    goes_on.set()
    for thread in threads:
        thread.join(10)
    assert synced == ["file", "second"]
    log.close()


def test_durability_batch_needs_no_sync():
    for seed in range(5):
        disk = FakeDisk()
        log = open_log(disk, durability="batch")
        keys, tails, pages = pages_with([200_000] * 12)
        locations = log.append(keys, tails, pages)
        disk.lose_power(seed)
        assert all(read_back(open_log(disk), keys, locations, pages).intact)


def test_a_segment_whose_name_cannot_be_made_durable_leaves_nothing_behind(monkeypatch):
    """Each try left a preallocated file that no account named, and a descriptor."""
    disk = FakeDisk()
    log = open_log(disk, durability="batch")
    closed, close = [], FakeFile.close
    monkeypatch.setattr(FakeFile, "close", lambda file: closed.append(file) or close(file))
    disk.failing = {"sync_dir"}
    with pytest.raises(UnavailableError):
        log.append(*pages_with([5000]))
    assert len(closed) == 1
    assert log.allocated_bytes() == disk.used_bytes("*.seg") == 0
    disk.failing = {"sync_dir", "unlink"}
    with pytest.raises(UnavailableError):
        log.append(*pages_with([5000]))
    # What cannot be deleted still counts, and goes when its turn comes.
    assert log.allocated_bytes() == disk.used_bytes("*.seg") == SEGMENT_BYTES
    disk.failing = set()
    for segment_id in log.sealed_ids():
        log.drop(segment_id)
    assert log.allocated_bytes() == disk.used_bytes("*.seg") == 0
    log.close()


def test_a_disk_that_does_not_answer_hides_pages_and_does_not_damage_them():
    disk = FakeDisk()
    log = open_log(disk)
    keys, tails, pages = pages_with([5000, 5000])
    locations = log.append(keys, tails, pages)
    disk.failing = {"preadv"}
    assert read_back(log, keys, locations, pages) == ([False, False], [])
    disk.failing = set()
    assert read_back(log, keys, locations, pages) == ([True, True], [])
    log.close()


def aligned_pages(num_pages):
    """Return keys, hash tails and pages that O_DIRECT takes, one block each."""
    keys, tails, pages = pages_with([BLOCK_BYTES] * num_pages)
    memory = memoryview(mmap.mmap(-1, num_pages * BLOCK_BYTES))
    for i, page in enumerate(pages):
        memory[i * BLOCK_BYTES : (i + 1) * BLOCK_BYTES] = page[0]
        pages[i] = [memory[i * BLOCK_BYTES : (i + 1) * BLOCK_BYTES]]
    return keys, tails, pages


def test_a_header_does_not_wait_for_its_pages(monkeypatch):
    log, header_is_there = open_log(FakeDisk(), io_bytes=BLOCK_BYTES), threading.Event()
    write, num_pages = FakeFile.pwritev, []

    def slow_pages(file, buffers, offset):
        if bytes(buffers[0][:8]) == format.BATCH_MAGIC:
            header_is_there.set()
        elif bytes(buffers[0][:3]) == b"key":
            assert header_is_there.wait(10)
            num_pages.append(len(buffers))
        write(file, buffers, offset)

    monkeypatch.setattr(FakeFile, "pwritev", slow_pages)
    keys, tails, pages = aligned_pages(2)
    locations = log.append(keys, tails, pages)
    assert num_pages == [1, 1]
    assert read_back(log, keys, locations, pages).intact == [True, True]
    log.close()


def test_pages_under_way_are_waited_for_when_their_header_fails(monkeypatch):
    """Their memory is the caller's again afterwards."""
    log, num_written = open_log(FakeDisk(), io_bytes=BLOCK_BYTES), []
    header_failed, write = threading.Event(), FakeFile.pwritev

    def no_header(file, buffers, offset):
        if bytes(buffers[0][:8]) == format.BATCH_MAGIC:
            header_failed.set()
            raise UnavailableError("no header")
        if bytes(buffers[0][:3]) == b"key":
            assert header_failed.wait(10)
            time.sleep(0.05)
            num_written.append(1)
        write(file, buffers, offset)

    monkeypatch.setattr(FakeFile, "pwritev", no_header)
    with pytest.raises(UnavailableError, match="no header"):
        log.append(*aligned_pages(3))
    assert len(num_written) == 3
    log.close()


def test_pages_under_way_are_waited_for_when_their_batch_cannot_be_described(monkeypatch):
    """Their memory is the caller's again afterwards, here as well."""
    log, num_written = open_log(FakeDisk(), io_bytes=BLOCK_BYTES), []
    described, write = threading.Event(), FakeFile.pwritev

    def slow_pages(file, buffers, offset):
        if bytes(buffers[0][:3]) == b"key":
            assert described.wait(10)
            time.sleep(0.05)
            num_written.append(1)
        write(file, buffers, offset)

    def no_clock():
        described.set()
        raise OverflowError("no time")

    monkeypatch.setattr(FakeFile, "pwritev", slow_pages)
    log._clock_ms = no_clock
    with pytest.raises(OverflowError):
        log.append(*aligned_pages(3))
    assert len(num_written) == 3
    log.close()


def test_a_withdrawn_batch_is_named_nowhere():
    log = open_log(FakeDisk())
    assert log.append(*pages_with([5000, 5000]), still_valid=lambda: False) is None
    assert [batch for i in log.segment_ids() for batch in log.batches(i)] == []
    log.close()


def test_a_page_that_fills_a_segment_and_one_that_is_larger():
    log = open_log(FakeDisk())
    largest = SEGMENT_BYTES - BLOCK_BYTES - format.batch_header_bytes([b"key"])
    keys, tails, pages = pages_with([largest])
    assert all(read_back(log, keys, log.append(keys, tails, pages), pages).intact)
    with pytest.raises(UnavailableError, match="does not fit"):
        log.append(*pages_with([largest + 1]))
    assert len(log.segment_ids()) == 1
    log.close()


@given(calls, st.data())
def test_punching_gives_back_exactly_the_blocks_of_the_dead_pages(lengths, data):
    disk, everything = FakeDisk(), []
    log = open_log(disk)
    for number, each in enumerate(lengths):
        keys, tails, pages = pages_with(each, first=100 * number)
        everything += zip(keys, log.append(keys, tails, pages), pages, strict=True)
    dead = data.draw(st.sets(st.integers(0, len(everything) - 1)))
    # Gives back what is preallocated, which the next call would do as well.
    log.punch([])
    before = log.allocated_bytes()
    log.punch([everything[i][1] for i in dead])
    assert before - log.allocated_bytes() == sum(
        format.padded(everything[i][1].length) for i in dead
    )
    assert log.allocated_bytes() >= disk.used_bytes("*.seg")
    assert [log.has_data(at) for _, at, _ in everything] == [
        i not in dead for i in range(len(everything))
    ]
    keys, locations, pages = zip(*everything, strict=True)
    assert read_back(log, keys, locations, pages).intact == [
        i not in dead for i in range(len(everything))
    ]
    log.close()


def test_reclaim_gives_back_what_is_preallocated_and_the_next_write_takes_it_again():
    """A store of 32 MiB of pages held 256 MiB of the disk after half of its pages were evicted."""
    disk = FakeDisk()
    log = open_log(disk)
    dead = log.append(*pages_with([100_000] * 4))
    log.punch(dead)
    assert log.allocated_bytes() == disk.used_bytes("*.seg") == 2 * BLOCK_BYTES
    keys, tails, pages = pages_with([100_000], first=10)
    again = log.append(keys, tails, pages)
    # Preallocating from the start would give the evicted pages their blocks back.
    holes = 4 * format.padded(100_000)
    assert log.allocated_bytes() == disk.used_bytes("*.seg") == SEGMENT_BYTES - holes
    assert not any(map(log.has_data, dead))
    assert again[0].segment_id == dead[0].segment_id
    assert read_back(log, keys, again, pages).intact == [True]
    log.close()


@pytest.mark.parametrize("was_closed", [True, False])
def test_what_a_process_left_preallocated_is_given_back_and_a_sealed_log_is_not_read(
    was_closed, monkeypatch
):
    disk = FakeDisk()
    log = open_log(disk)
    log.append(*pages_with([5000, 70_000]))
    written = log._tail.end
    if was_closed:
        log.close()
    num_scans, scan = [], Segment.batches
    monkeypatch.setattr(
        Segment, "batches", lambda segment, **how: num_scans.append(1) or scan(segment, **how)
    )
    log = open_log(disk)
    assert disk.used_bytes("*.seg") == log.allocated_bytes() == written
    assert len(num_scans) == (0 if was_closed else 1)
    log.close()


@pytest.mark.parametrize("block", ["of the segment", "of a batch"])
def test_one_unreadable_header_costs_no_page_and_no_byte_of_the_account(block):
    """The store did not open any more, at no start, and with it went all of its pages."""
    disk = FakeDisk()
    log = open_log(disk)
    keys, tails, pages = pages_with([5000, 70_000, 200_000])
    locations = [log.append([k], [t], [p])[0] for k, t, p in zip(keys, tails, pages, strict=True)]
    ((path, _),) = disk.files("*.seg").items()
    # As after kill -9: the log was not closed, so where its last batch ends has to be found out.
    disk.kill()
    last_header = locations[-1].offset // BLOCK_BYTES - 1
    disk.unreadable = {(path, 0 if block == "of the segment" else last_header)}
    log = open_log(disk)
    assert read_back(log, keys, locations, pages) == ([True] * 3, [])
    assert log.allocated_bytes() == disk.used_bytes("*.seg")
    (more,) = log.append(*pages_with([5000], first=9))
    assert more.segment_id != locations[0].segment_id
    log.drop(locations[0].segment_id)
    assert log.allocated_bytes() == disk.used_bytes("*.seg")
    log.close()


def test_a_tail_that_cannot_grow_goes_on_once_it_can():
    disk = FakeDisk()
    log = open_log(disk)
    (kept,) = log.append(*pages_with([40_000]))
    log.punch([])
    disk.failing = {"allocate"}
    with pytest.raises(UnavailableError):
        log.append(*pages_with([40_000], first=1))
    assert log.allocated_bytes() == disk.used_bytes("*.seg")
    disk.failing = set()
    keys, tails, pages = pages_with([40_000], first=1)
    (again,) = log.append(keys, tails, pages)
    assert again.segment_id == kept.segment_id
    assert read_back(log, keys, [again], pages).intact == [True]
    log.close()


def test_a_tail_does_not_grow_without_leave():
    asked = []

    def admit(segment_id, num_bytes):
        asked.append((segment_id, num_bytes))
        if len(asked) == 2:
            raise UnavailableError("no room")

    disk = FakeDisk()
    log = TensorLog(
        disk, DIRECTORY, LogConfig(segment_bytes=SEGMENT_BYTES), admit=admit, clock_ms=lambda: 1
    )
    log.append(*pages_with([40_000]))
    log.punch([])
    num_bytes = log.allocated_bytes()
    with pytest.raises(UnavailableError):
        log.append(*pages_with([40_000], first=1))
    assert asked == [(1, SEGMENT_BYTES), (1, SEGMENT_BYTES - num_bytes)]
    assert disk.used_bytes("*.seg") == log.allocated_bytes() == num_bytes
    log.close()


def test_a_file_system_without_holes_is_found_out_at_open_and_left_alone():
    disk = FakeDisk(can_punch=False)
    log = open_log(disk)
    assert not log.can_punch
    keys, tails, pages = pages_with([5000, 5000])
    locations = log.append(keys, tails, pages)
    before = log.allocated_bytes()
    log.punch(locations)
    assert log.allocated_bytes() == before
    assert all(read_back(log, keys, locations, pages).intact)
    assert [name for name in disk.list_dir(DIRECTORY) if not name.endswith(".seg")] == []
    log.close()


@pytest.mark.parametrize("skipped", [False, True])
def test_a_damaged_page_is_handed_out_only_where_checks_are_switched_off(skipped):
    disk = FakeDisk()
    log = open_log(disk, unsafe_skip_checksums=skipped)
    keys, tails, pages = pages_with([9000] * 3)
    locations = log.append(keys, tails, pages)
    (inode,) = disk.files("*.seg").values()
    inode.current.data[locations[1].offset] ^= 1
    out = empty_pages(3, [9000])
    result = log.read(keys, locations, out)
    assert result.intact == [True, skipped, True]
    assert result.damaged == ([] if skipped else [1])
    log.close()
