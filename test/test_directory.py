import json
import os
from pathlib import Path

import pytest
from sglang_lsm import directory as directory_module
from sglang_lsm.directory import (
    DAMAGED_NAME,
    FACTS_NAME,
    INDEX_NAME,
    LOCK_NAME,
    NO_CONTENT,
    check_directory,
    create_facts,
    discard_damaged_index,
    open_store_index,
)
from sglang_lsm.errors import (
    ConfigError,
    CorruptionError,
    FormatVersionError,
    UnavailableError,
)
from sglang_lsm.format import FORMAT_VERSION, decode_store_facts, encode_store_facts
from sglang_lsm.fs import DRAFT_SUFFIX, LocalFileSystem
from sglang_lsm.store import Store
from support.fake_fs import FakeDisk
from support.fake_index import FakeIndexDisk
from support.page_maker import small_config

STORE = Path("/store")
NEWER = json.dumps({"format_version": FORMAT_VERSION + 1}).encode()


def content_of(directory):
    """Return every file of a directory with its bytes, and every folder."""
    return {
        path.relative_to(directory): path.is_file() and path.read_bytes()
        for path in directory.rglob("*")
    }


@pytest.fixture
def disk():
    disk = FakeDisk()
    disk.make_dir(STORE)
    return disk


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("thesis.txt", b"years of work", ConfigError),
        ("index/CURRENT", b"of another program", ConfigError),
        (FACTS_NAME, NEWER, FormatVersionError),
        (FACTS_NAME, b"half a li", CorruptionError),
    ],
)
@pytest.mark.parametrize(
    "use", [check_directory, lambda path: Store.open(path, small_config())], ids=["check", "open"]
)
def test_a_refused_directory_stays_as_it_was(tmp_path, name, content, error, use):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    before = content_of(tmp_path)
    with pytest.raises(error):
        use(tmp_path)
    assert content_of(tmp_path) == before


@pytest.mark.parametrize("name", [None, *NO_CONTENT])
def test_an_empty_directory_is_accepted_and_gets_a_lock_only(tmp_path, name):
    if name is not None:
        (tmp_path / name).write_bytes(b"")
    check_directory(tmp_path)
    assert set(content_of(tmp_path)) == {Path(LOCK_NAME)} | ({Path(name)} if name else set())
    check_directory(tmp_path)


def test_a_missing_directory_is_created(tmp_path):
    check_directory(tmp_path / "a" / "b")
    assert set(content_of(tmp_path / "a" / "b")) == {Path(LOCK_NAME)}


def test_a_store_is_accepted_unless_it_is_in_use(tmp_path):
    fs = LocalFileSystem()
    create_facts(fs, tmp_path)
    check_directory(tmp_path)
    before = content_of(tmp_path)
    lock = fs.lock(tmp_path / LOCK_NAME)
    with pytest.raises(ConfigError, match="in use"):
        check_directory(tmp_path)
    lock.release()
    check_directory(tmp_path)
    assert content_of(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be used"):
        check_directory(tmp_path)


def test_a_failing_disk_is_a_setting_to_be_fixed(monkeypatch, disk):
    monkeypatch.setattr(directory_module, "LocalFileSystem", lambda: disk)
    for call in ("make_dir", "read", "list_dir", "lock"):
        disk.failing = {call}
        with pytest.raises(ConfigError, match="cannot be used"):
            check_directory(STORE)
    disk.failing = set()
    check_directory(STORE)


def test_facts_are_written_once(disk):
    create_facts(disk, STORE)
    assert decode_store_facts(disk.read(STORE / FACTS_NAME))["format_version"] == FORMAT_VERSION
    num_changes = disk.num_changes
    create_facts(disk, STORE)
    assert disk.num_changes == num_changes


def test_a_process_that_died_before_the_facts_were_complete_left_a_directory_in_the_way(disk):
    """Its draft passed for a foreign file, and every start was refused from then on."""
    disk.replace(STORE / LOCK_NAME, b"")
    disk.replace(STORE / (FACTS_NAME + DRAFT_SUFFIX), b"half")
    create_facts(disk, STORE)
    assert disk.read(STORE / FACTS_NAME) is not None


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("thesis.txt", b"", ConfigError),
        (FACTS_NAME, NEWER, FormatVersionError),
        (FACTS_NAME, b"[]", CorruptionError),
    ],
)
def test_no_facts_are_written_over_what_is_there(disk, name, content, error):
    disk.replace(STORE / name, content)
    num_changes = disk.num_changes
    with pytest.raises(error):
        create_facts(disk, STORE)
    assert disk.num_changes == num_changes


def test_an_index_noted_as_damaged_is_deleted_once(disk):
    disk.make_dir(STORE / INDEX_NAME)
    disk.replace(STORE / INDEX_NAME / "table", b"")
    discard_damaged_index(disk, STORE)
    assert disk.read(STORE / INDEX_NAME / "table") is not None
    disk.replace(STORE / DAMAGED_NAME, b"")
    discard_damaged_index(disk, STORE)
    assert disk.read(STORE / INDEX_NAME / "table") is None
    assert disk.read(STORE / DAMAGED_NAME) is None


def test_a_process_that_dies_while_it_deletes_a_damaged_index_has_it_deleted_by_the_next(disk):
    """The note goes last."""
    disk.make_dir(STORE / INDEX_NAME)
    disk.replace(STORE / INDEX_NAME / "table", b"")
    disk.replace(STORE / DAMAGED_NAME, b"")
    disk.failing = {"remove_tree"}
    with pytest.raises(UnavailableError):
        discard_damaged_index(disk, STORE)
    assert disk.read(STORE / DAMAGED_NAME) is not None


def test_an_index_that_cannot_be_opened_is_replaced_by_an_empty_one(disk):
    disk.replace(STORE / FACTS_NAME, encode_store_facts({}))
    indexes = FakeIndexDisk()
    open_store_index(disk, STORE, indexes.open).put([(b"key", b"value")])
    indexes.damaged = True
    disk.make_dir(STORE / INDEX_NAME)
    disk.replace(STORE / INDEX_NAME / "table", b"")
    assert open_store_index(disk, STORE, indexes.open).get([b"key"]) == [None]
    assert disk.read(STORE / INDEX_NAME / "table") is None


def test_an_index_is_not_opened_in_a_directory_that_was_deleted(disk):
    """It would come back as an index alone, which the next start refuses as somebody else's."""
    with pytest.raises(UnavailableError, match="deleted"):
        open_store_index(disk, STORE, FakeIndexDisk().open)
    disk.replace(STORE / FACTS_NAME, encode_store_facts({}))
    indexes = FakeIndexDisk()
    indexes.failing = True
    with pytest.raises(UnavailableError):
        open_store_index(disk, STORE, indexes.open)
