"""What is copied is what was stored, or it is not copied."""

from pathlib import Path

import pytest
from sglang_lsm import format, keycodec
from sglang_lsm.store import Store
from support.fake_fs import FakeDisk
from support.fake_index import FakeIndexDisk
from support.page_maker import empty_pages, fingerprint, joined, pages_of, path_of, small_config

DIRECTORY, PIECES = Path("/store"), (65536,)


@pytest.fixture
def disk():
    disk = FakeDisk()
    disk.make_dir(DIRECTORY)
    return disk


@pytest.fixture
def store(disk):
    opened = Store(
        DIRECTORY, small_config(8), fs=disk, open_index=FakeIndexDisk().open, loads_behind=False
    )
    yield opened
    opened.close()


def stored(store, kv_dtype="bfloat16", num_pages=4):
    """Store a path; return it, and key and place of its pages."""
    namespace = store.register(fingerprint(kv_dtype=kv_dtype))
    path = path_of(namespace, range(num_pages))
    store.put_batch(path, pages_of(path, PIECES))
    return path, pages(store, path)


def pages(store, path):
    keys = list(keycodec.encode(path))
    return list(zip(keys, map(format.decode_index_value, store._index.get(keys)), strict=True))


def read_back(store, path):
    out = empty_pages(path.num_pages, PIECES)
    num_pages = store.get_batch(path, out)
    assert [joined(page) for page in out[:num_pages]] == [
        joined(page) for page in pages_of(path, PIECES)[:num_pages]
    ]
    return num_pages


@pytest.mark.parametrize("encodes", [False, True])
def test_a_copy_lies_elsewhere_under_the_same_checksum_and_the_old_place_is_free(
    disk, store, encodes
):
    path, before = stored(store)
    copier = store._background.merger._copier
    assert copier.copy(before, encodes=encodes) == 4 * 65536
    after = pages(store, path)
    for (key, old), (_, new) in zip(before, after, strict=True):
        assert new.checksum == old.checksum and new.flags == int(encodes), key
        assert not store._log.has_data(old)
    assert read_back(store, path) == 4


def test_the_type_of_the_kv_decides_how_bytes_are_cut(store):
    copier = store._background.merger._copier
    lengths = {}
    for kv_dtype in ("bfloat16", "float8_e4m3fn"):
        path, found = stored(store, kv_dtype)
        copier.encode(found)
        lengths[kv_dtype] = sum(at.length for _, at in pages(store, path))
    # Numbers of two bytes, cut as such; as single bytes they mix with noise.
    assert lengths["bfloat16"] < lengths["float8_e4m3fn"] < 4 * 65536


def test_what_is_damaged_or_gone_is_not_copied(disk, store):
    path, found = stored(store)
    (inode,) = disk.files("/store/log/*.seg").values()
    inode.current.data[found[1][1].offset + 99] ^= 1
    copier = store._background.merger._copier
    assert copier.copy(found) == 3 * 65536
    assert pages(store, path)[1] == found[1]
    assert read_back(store, path) == 1
    # Old places are holes by now.
    assert copier.copy(found) == 0 and copier.encode(found) == 0


def test_a_page_that_was_stored_anew_meanwhile_keeps_its_place(store):
    path, found = stored(store)
    copier = store._background.merger._copier
    parts = copier._parts

    def late(pages_):
        for part in parts(pages_):
            store.delete_subtree(path_of(path.namespace, range(3)))
            store.put_batch(path, pages_of(path, PIECES))
            yield part

    copier._parts = late
    copier.encode(found)
    assert [at.flags for _, at in pages(store, path)] == [1, 1, 0, 0]
    assert read_back(store, path) == 4
