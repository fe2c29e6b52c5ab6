"""Pages that wait are made smaller in idle time; what is read is what was put."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sglang_lsm import format, keycodec
from sglang_lsm.config import MIB
from sglang_lsm.pages import PagePath
from sglang_lsm.store import Store
from support.fake_fs import FakeDisk
from support.fake_index import FakeIndexDisk
from support.page_maker import (
    SEGMENT_BYTES,
    empty_pages,
    fingerprint,
    joined,
    pages_of,
    path_of,
    small_config,
)

DIRECTORY, PIECES = Path("/store"), (30_000, 35_536)
PAGE_BYTES = sum(PIECES)
NUM_BLOCKS = PAGE_BYTES // format.BLOCK_BYTES


class Machine:
    """A disk and its index, and a store that is opened on them."""

    def __init__(self, *, can_punch=True, num_segments=8, **log_settings):
        self.disk, self.index_disk = FakeDisk(can_punch=can_punch), FakeIndexDisk()
        self.disk.make_dir(DIRECTORY)
        settings = {"codec": "idle"} | log_settings
        self.config = replace(small_config(num_segments, **settings), eviction="lru")
        self.open()

    def open(self):
        self.store = Store(
            DIRECTORY, self.config, fs=self.disk, open_index=self.index_disk.open,
            loads_behind=False,
        )  # fmt: skip
        self.namespace = self.store.register(fingerprint())

    def put(self, name, num_pages=10):
        path = path_of(self.namespace, [name, *range(num_pages - 1)])
        self.store.put_batch(path, pages_of(path, PIECES))
        return path

    def encode_all(self):
        while self.store._background.encoder.encode(MIB):
            pass

    def locations(self, path):
        values = self.store._index.get(list(keycodec.encode(path)))
        return [format.decode_index_value(value) for value in values if value]


@pytest.fixture
def machine():
    opened = Machine()
    yield opened
    opened.store.close()


def assert_readable(store, path):
    out = empty_pages(path.num_pages, PIECES)
    assert store.get_batch(path, out) == path.num_pages
    assert [joined(page) for page in out] == [joined(page) for page in pages_of(path, PIECES)]


def test_an_encoded_page_is_read_as_it_was_put_and_takes_less_room(machine):
    path = machine.put("a")
    before = machine.store.stats().allocated_bytes
    machine.encode_all()
    stats = machine.store.stats()
    assert stats.pages_encoded == 10
    locations = machine.locations(path)
    assert all(at.flags == format.ENCODED and at.length < 0.7 * PAGE_BYTES for at in locations)
    saved = sum(PAGE_BYTES - at.length for at in locations)
    assert stats.bytes_saved == saved
    # Headers of batches stay, one block each; what was preallocated is gone in either case.
    assert stats.allocated_bytes <= before - saved + 2 * format.BLOCK_BYTES
    assert_readable(machine.store, path)
    assert machine.store.stats().pages_decoded == 10


def test_a_page_is_encoded_once(machine):
    machine.put("a")
    machine.encode_all()
    num_bytes = machine.disk.used_bytes("/store/log/*.seg")
    assert machine.store._background.encoder.encode(MIB) == 0
    assert machine.disk.used_bytes("/store/log/*.seg") == num_bytes
    assert machine.store.stats().pages_encoded == 10


def test_what_is_in_use_stays_plain(machine):
    """Of 64 pages, those used within the last four uses stay; the others are encoded in turn."""
    old, hot = machine.put("old", 60), machine.put("hot", 4)
    machine.store._background.encoder.encode(1)
    flags = [at.flags for at in machine.locations(old)]
    assert sum(flags) == 1
    machine.encode_all()
    assert all(at.flags for at in machine.locations(old))
    assert not any(at.flags for at in machine.locations(hot))


def test_noise_is_looked_at_once_and_stays(machine):
    path = path_of(machine.namespace, ["noise"])
    page = [memoryview(np.random.default_rng(i).bytes(4096)) for i in range(2)]
    machine.store.put_batch(path, [page])
    assert machine.store._background.encoder.encode(MIB) == 8192
    assert machine.store._background.encoder.encode(MIB) == 0
    assert machine.store.stats().pages_encoded == 0
    out = empty_pages(1, (4096, 4096))
    assert machine.store.get_batch(path, out) == 1 and joined(out[0]) == joined(page)


def test_nothing_is_encoded_while_there_is_room_or_without_being_asked(machine):
    machine.put("a", 15)
    machine.store._encode()
    assert machine.store.stats().pages_encoded == 0
    for i in range(8):
        machine.put(i, 15)
    machine.store.tune(replace(machine.config, log=replace(machine.config.log, codec="off")))
    machine.store._encode()
    assert machine.store.stats().pages_encoded == 0
    machine.store.tune(machine.config)
    machine.store._encode()
    assert machine.store.stats().pages_encoded > 0


def test_more_pages_fit_and_the_quota_holds(machine):
    """The same puts keep a fifth more pages where there is time to encode between them."""

    def fill(machine):
        for i in range(60):
            machine.put(i, 4)
            machine.encode_all()
            assert machine.disk.used_bytes("/store/log/*.seg") <= machine.config.quota_bytes
        return machine.store.stats().num_pages

    plain = Machine()
    plain.encode_all = lambda: None
    assert fill(machine) > 1.2 * fill(plain)
    plain.store.close()


def test_encoded_pages_survive_kill_9_and_the_loss_of_the_index(machine):
    path = machine.put("a")
    machine.encode_all()
    machine.disk.kill()
    machine.open()
    assert all(at.flags for at in machine.locations(path))
    assert_readable(machine.store, path)
    # The page table is new; it learns from the index that there is nothing to do.
    machine.encode_all()
    assert machine.store.stats().pages_encoded == 0
    machine.store.close()
    machine.index_disk.wipe()
    machine.open()
    assert_readable(machine.store, path)
    assert machine.store.stats().pages_decoded == 10


def test_merging_keeps_encoded_pages_encoded(machine):
    path = machine.put("a")
    machine.encode_all()
    lengths = [at.length for at in machine.locations(path)]
    offsets = [(at.segment_id, at.offset) for at in machine.locations(path)]
    machine.store.merge(path)
    assert [at.length for at in machine.locations(path)] == lengths
    assert [(at.segment_id, at.offset) for at in machine.locations(path)] != offsets
    assert_readable(machine.store, path)


def test_without_holes_segments_that_are_merged_are_encoded():
    machine = Machine(can_punch=False, num_segments=6)
    for i in range(40):
        machine.put(i, 5)
        machine.store.touch(path_of(machine.namespace, [0, *range(4)]))
        assert machine.store._background.encoder.run(MIB, machine.config) == 0
        machine.store._upkeep()
    stats = machine.store.stats()
    assert stats.pages_encoded > 0
    assert stats.bytes_to_encode >= stats.pages_encoded * PAGE_BYTES
    assert stats.encode_cpu_s > 0
    assert_readable(machine.store, path_of(machine.namespace, [0, *range(4)]))
    machine.store.close()


def test_a_page_of_another_size_ends_the_run_and_stays(machine):
    path = machine.put("a")
    machine.encode_all()
    out = empty_pages(10, PIECES)
    out[3] = empty_pages(1, (30_000,))[0]
    assert machine.store.get_batch(path, out) == 3
    assert_readable(machine.store, path)


@pytest.mark.parametrize("at", [0, 5, 9, 40, 30_000])
def test_a_damaged_encoded_page_is_a_miss_and_can_be_stored_again(machine, at):
    path = machine.put("a")
    machine.encode_all()
    place = machine.locations(path)[4]
    (inode,) = [inode for file, inode in machine.disk.files("/store/log/*.seg").items()
                if int(file.stem, 16) == place.segment_id]  # fmt: skip
    inode.current.data[place.offset + at] ^= 0x08
    out = empty_pages(10, PIECES)
    assert machine.store.get_batch(path, out) == 4
    assert machine.store.stats().pages_damaged == 1
    machine.store.put_batch(path, pages_of(path, PIECES))
    assert machine.store.stats().pages_put == 11
    assert_readable(machine.store, path)


def test_a_form_that_is_not_known_is_a_miss_and_goes(machine):
    """A later version may know more forms; what this one cannot read must not block a put."""
    path = machine.put("a")
    (key, *_), (at, *_) = list(keycodec.encode(path)), machine.locations(path)
    machine.store._index.put([(key, format.encode_index_value(at._replace(flags=2)))])
    assert machine.store.get_batch(path, empty_pages(10, PIECES)) == 0
    machine.store.put_batch(path, pages_of(path, PIECES))
    assert_readable(machine.store, path)


def test_plain_and_encoded_neighbours_are_read_together(machine):
    path = machine.put("a", 8)
    for i in range(0, 8, 2):
        one = PagePath(path.namespace, path.hashes[: i + 1], i)
        (key,), (at,) = list(keycodec.encode(one)), machine.locations(one)
        machine.store._background.encoder._copier.encode([(key, at)])
    assert [bool(at.flags) for at in machine.locations(path)] == [True, False] * 4
    assert_readable(machine.store, path)


def test_segments_are_small_enough_for_these_tests():
    assert SEGMENT_BYTES == 16 * PAGE_BYTES
    assert NUM_BLOCKS * format.BLOCK_BYTES == PAGE_BYTES


def test_trying_tells_what_encoding_would_save_and_changes_nothing(machine):
    path = machine.put("a")
    before = machine.store.stats()
    found = machine.store.try_encoding(4 * PAGE_BYTES)
    assert found.num_bytes == found.decoded_bytes == 4 * PAGE_BYTES
    assert found.encode_cpu_s > 0 and found.decode_cpu_s > 0
    assert machine.store.stats() == before
    assert not any(at.flags for at in machine.locations(path))
    machine.encode_all()
    stats = machine.store.stats()
    assert found.saved_bytes / found.num_bytes == stats.bytes_saved / (10 * PAGE_BYTES)
    # What is encoded already would gain nothing more.
    assert machine.store.try_encoding(4 * PAGE_BYTES).num_bytes == 0


def test_trying_noise_saves_nothing_and_it_is_tried_again_when_it_counts(machine):
    path = path_of(machine.namespace, ["noise"])
    page = [memoryview(np.random.default_rng(i).bytes(4096)) for i in range(2)]
    machine.store.put_batch(path, [page])
    for _ in range(2):
        found = machine.store.try_encoding(MIB)
        assert (found.num_bytes, found.saved_bytes, found.decoded_bytes) == (8192, 0, 0)
    machine.encode_all()
    stats = machine.store.stats()
    assert (stats.bytes_to_encode, stats.bytes_saved) == (8192, 0)


def test_encoding_counts_what_it_took_and_what_it_was_tried_on(machine):
    machine.put("a")
    machine.encode_all()
    stats = machine.store.stats()
    assert stats.bytes_to_encode == 10 * PAGE_BYTES
    assert stats.encode_cpu_s > 0
