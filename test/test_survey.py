"""What is counted and verified from outside, while another process has the store open."""

import errno
from pathlib import Path

import pytest
from sglang_lsm.errors import ConfigError, UnavailableError
from sglang_lsm.fs import LocalFile
from sglang_lsm.store import Store
from sglang_lsm.survey import find_stores, survey, verify
from support.page_maker import fingerprint, pages_of, path_of, small_config

PIECES = (3000, 5000)


@pytest.fixture
def store(tmp_path: Path):
    opened = Store.open(tmp_path / "tp0-pp0", small_config())
    yield opened
    opened.close()


def test_counts_pages_and_beginnings_of_an_open_store(store: Store):
    namespace = store.register(fingerprint("a"))
    other = store.register(fingerprint("b"))
    for path in (
        path_of(namespace, range(70)),
        path_of(namespace, [0, 1, "branch"]),
        path_of(namespace, ["second beginning"]),
    ):
        store.put_batch(path, pages_of(path, PIECES))
    found = survey(store.directory)
    ours, theirs = (found.namespaces[name.hex()] for name in (namespace, other))
    assert (ours.num_pages, ours.num_roots) == (72, 2)
    assert ours.num_bytes == 72 * sum(PIECES)
    assert '"model":"a"' in ours.fingerprint
    assert (theirs.num_pages, theirs.num_roots) == (0, 0)
    assert found.allocated_bytes == store.stats().allocated_bytes


def test_verify_finds_exactly_the_pages_that_were_changed(store: Store):
    path = path_of(store.register(fingerprint()), range(8))
    store.put_batch(path, pages_of(path, PIECES))
    assert verify(store.directory).damaged == []
    segment = next((store.directory / "log").glob("*.seg"))
    content = bytearray(segment.read_bytes())
    wanted = pages_of(path, PIECES)[3][1]
    at = bytes(content).index(bytes(wanted))
    content[at + 100] ^= 1
    segment.write_bytes(content)
    report = verify(store.directory)
    assert report.num_pages == 8
    (line,) = report.damaged
    assert "checksum" in line and f"offset={at - PIECES[0]}" in line


def test_verify_goes_on_behind_a_page_that_cannot_be_read(store: Store, monkeypatch):
    """One bad block ended the run, and told nothing of the pages behind it."""
    path = path_of(store.register(fingerprint()), range(8))
    store.put_batch(path, pages_of(path, PIECES))
    bad = store._catalog.pages_of_segment(1)[3][1].offset
    read = LocalFile.preadv

    def preadv(file, buffers, offset):
        if offset == bad:
            raise UnavailableError(errno.EIO, "cannot read")
        return read(file, buffers, offset)

    monkeypatch.setattr(LocalFile, "preadv", preadv)
    report = verify(store.directory)
    assert report.num_pages == 8
    (line,) = report.damaged
    assert "cannot be read" in line and f"offset={bad}" in line


def test_encoded_pages_are_counted_and_verified(store: Store):
    path = path_of(store.register(fingerprint()), range(8))
    store.put_batch(path, pages_of(path, (65536,)))
    assert store._background.encoder.encode(3 * 65536)
    (found,) = survey(store.directory).namespaces.values()
    assert (found.num_pages, found.num_encoded) == (8, 3)
    assert found.num_bytes == 8 * 65536 - store.stats().bytes_saved
    assert verify(store.directory).damaged == []
    segment = max((store.directory / "log").glob("*.seg"))
    content = bytearray(segment.read_bytes())
    content[-5000] ^= 1
    segment.write_bytes(content)
    assert len(verify(store.directory).damaged) == 1


def test_verify_reports_a_missing_segment(store: Store):
    path = path_of(store.register(fingerprint()), range(3))
    store.put_batch(path, pages_of(path, PIECES))
    next((store.directory / "log").glob("*.seg")).unlink()
    assert len(verify(store.directory).damaged) == 3


def test_finds_the_stores_of_all_ranks(tmp_path: Path):
    for rank in ("tp1-pp0", "tp0-pp0"):
        Store.open(tmp_path / rank, small_config()).close()
    assert find_stores(tmp_path) == [tmp_path / "tp0-pp0", tmp_path / "tp1-pp0"]
    assert find_stores(tmp_path / "tp1-pp0") == [tmp_path / "tp1-pp0"]
    with pytest.raises(ConfigError, match="no store"):
        find_stores(tmp_path / "tp1-pp0" / "log")
