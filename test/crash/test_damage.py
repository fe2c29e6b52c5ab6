"""Files of a real store that are missing, foreign, cut, flipped or newer: misses, never lies."""

import contextlib
import json
import random
import shutil

import pytest
from sglang_lsm import format
from sglang_lsm.errors import CorruptionError, FormatVersionError, StoreError
from sglang_lsm.store import Store
from support.page_maker import (
    content_of,
    empty_pages,
    fingerprint,
    joined,
    pages_of,
    path_of,
    small_config,
)

PIECES = (40_000,)
NUM_PAGES, NUM_PATHS = 10, 6
"""Pages of 10 blocks, 60 in all: they fill two segments and begin a third."""


@pytest.fixture
def directory(tmp_path):
    """The directory of a store that was closed."""
    path = tmp_path / "store"
    store = Store.open(path, small_config(8))
    namespace = store.register(fingerprint())
    for number in range(NUM_PATHS):
        pages = path_of(namespace, range(number, number + NUM_PAGES))
        store.put_batch(pages, pages_of(pages, PIECES))
    assert store.stats().num_segments == 3
    store.close()
    return path


def segments(directory):
    return sorted((directory / "log").glob("*.seg"))


def flip(path, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


def num_found(directory):
    """Open the store, read every page one by one, compare, put them anew; return how many hit."""
    store = Store.open(directory, small_config(8))
    namespace = store.register(fingerprint())
    num_hits = 0
    for number in range(NUM_PATHS):
        hashes = path_of(namespace, range(number, number + NUM_PAGES)).hashes
        for i in range(NUM_PAGES):
            path = path_of(namespace, range(number, number + i + 1), start=i)
            (out,) = empty_pages(1, PIECES)
            if store.get_batch(path, [out]) == 1:
                assert joined(out) == content_of(namespace, hashes[i], PIECES[0])
                num_hits += 1
    for number in range(NUM_PATHS):
        path = path_of(namespace, range(number, number + NUM_PAGES))
        store.put_batch(path, pages_of(path, PIECES))
        out = empty_pages(NUM_PAGES, PIECES)
        assert store.get_batch(path, out) == NUM_PAGES
    store.close()
    return num_hits


ALL = NUM_PAGES * NUM_PATHS


def test_nothing_damaged_is_all_found(directory):
    assert num_found(directory) == ALL


def test_a_missing_segment_costs_its_pages(directory):
    segments(directory)[1].unlink()
    assert 0 < num_found(directory) < ALL


def test_a_missing_log_costs_all_pages(directory):
    shutil.rmtree(directory / "log")
    store = Store.open(directory, small_config(8))
    namespace = store.register(fingerprint())
    assert store.probe(path_of(namespace, range(NUM_PAGES))) == 0
    store.close()


def test_a_damaged_segment_header_costs_its_segment(directory):
    flip(segments(directory)[0], 12)
    assert 0 < num_found(directory) < ALL


def test_an_empty_segment_file_costs_its_pages(directory):
    segments(directory)[0].write_bytes(b"")
    assert 0 < num_found(directory) < ALL


def test_garbage_in_one_page_costs_that_page(directory):
    path = segments(directory)[0]
    content = path.read_bytes()
    batch = format.decode_batch_header(content[4096:8192])
    flip(path, batch.locations()[3].offset + 20_000)
    assert num_found(directory) == ALL - 1


def test_pages_that_changed_places_are_misses(directory):
    """Both are intact, and neither is what its name says: the seed of the checksum tells."""
    path = segments(directory)[0]
    content = bytearray(path.read_bytes())
    one, other, *_ = format.decode_batch_header(bytes(content[4096:8192])).locations()
    parts = [bytes(content[at.offset : at.offset + at.length]) for at in (one, other)]
    content[one.offset : one.offset + one.length] = parts[1]
    content[other.offset : other.offset + other.length] = parts[0]
    path.write_bytes(content)
    assert num_found(directory) == ALL - 2


@pytest.mark.parametrize(("num_cut", "num_lost"), [(1, 0), (4096, 1), (3 * 40_960, 3)])
def test_a_torn_tail_costs_what_was_cut(directory, num_cut, num_lost):
    """One byte is padding only; 40,960 are a page."""
    tail = segments(directory)[-1]
    tail.write_bytes(tail.read_bytes()[:-num_cut])
    assert num_found(directory) == ALL - num_lost


def test_a_foreign_file_in_the_log_is_left_alone(directory):
    foreign = directory / "log" / "notes.txt"
    foreign.write_text("not a segment")
    assert num_found(directory) == ALL
    assert foreign.read_text() == "not a segment"


def test_a_segment_of_another_store_under_our_name_is_not_believed(directory):
    one, other, _ = segments(directory)
    shutil.copy(one, other)
    assert 0 < num_found(directory) < ALL


def test_a_lost_index_is_rebuilt_from_the_log(directory):
    shutil.rmtree(directory / "index")
    assert num_found(directory) == ALL


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST-*"])
@pytest.mark.parametrize("harm", ["deleted", "emptied", "garbage"])
def test_an_index_that_cannot_be_opened_is_rebuilt_from_the_log(directory, name, harm):
    for path in (directory / "index").glob(name):
        if harm == "deleted":
            path.unlink()
        else:
            path.write_bytes(b"" if harm == "emptied" else b"\x13" * 500)
    assert num_found(directory) == ALL


@pytest.mark.parametrize("pattern", ["*.sst", "MANIFEST-*", "*.log", "CURRENT", "OPTIONS-*"])
def test_flipped_bytes_in_the_index_never_make_a_wrong_page(directory, pattern):
    """The store opens, possibly after a rebuild, and stores on; not one page reads back wrong."""
    rng = random.Random(pattern)
    for path in (directory / "index").glob(pattern):
        size = path.stat().st_size
        for _ in range(min(size, 20)):
            flip(path, rng.randrange(size))
    num_found(directory)


def test_a_damaged_block_of_the_index_is_a_store_error_and_no_wrong_page(directory):
    """RocksDB opens such an index; the damage shows in the first call that needs the block."""
    flip(max((directory / "index").glob("*.sst"), key=lambda path: path.stat().st_size), 60)
    store = Store.open(directory, small_config(8))
    path = path_of(store.register(fingerprint()), range(NUM_PAGES))
    out = empty_pages(NUM_PAGES, PIECES)
    with contextlib.suppress(StoreError):
        num_pages = store.get_batch(path, out)
        expected = pages_of(path, PIECES)[:num_pages]
        assert list(map(joined, out[:num_pages])) == list(map(joined, expected))
    store.close()


def contents(directory):
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_damaged_block_of_the_index_is_mended_by_the_next_start(directory):
    """Its pages raised on every call and could not be stored again, for ever."""
    flip(max((directory / "index").glob("*.sst"), key=lambda path: path.stat().st_size), 60)
    store = Store.open(directory, small_config(8))
    path = path_of(store.register(fingerprint()), range(NUM_PAGES))
    with pytest.raises(CorruptionError):
        store.get_batch(path, empty_pages(NUM_PAGES, PIECES))
    store.close()
    assert num_found(directory) == ALL


def test_a_store_of_a_newer_version_is_left_untouched(directory):
    facts = json.loads((directory / "STORE").read_text())
    facts["format_version"] = format.FORMAT_VERSION + 1
    (directory / "STORE").write_text(json.dumps(facts))
    before = contents(directory)
    with pytest.raises(FormatVersionError, match="newer"):
        Store.open(directory, small_config(8))
    assert contents(directory) == before


def test_a_damaged_store_file_is_a_store_error(directory):
    (directory / "STORE").write_bytes(b"{ not json")
    with pytest.raises(StoreError):
        Store.open(directory, small_config(8))
