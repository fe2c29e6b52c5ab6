"""The jobs beside serving run at their rates and are counted."""

from dataclasses import replace
from pathlib import Path

from sglang_lsm.background import ENCODE_INTERVAL_S
from sglang_lsm.config import MIB
from sglang_lsm.store import Store
from support.fake_fs import FakeDisk
from support.fake_index import FakeIndexDisk
from support.page_maker import fingerprint, pages_of, path_of, small_config

DIRECTORY, PIECES = Path("/store"), (65536,)


def open_store(**log_settings):
    disk = FakeDisk()
    disk.make_dir(DIRECTORY)
    config = replace(small_config(4, **log_settings), eviction="lru")
    return Store(
        DIRECTORY, config, fs=disk, open_index=FakeIndexDisk().open, loads_behind=False
    )  # fmt: skip


def test_a_step_encodes_as_much_as_its_rate_allows():
    store = open_store(codec="idle", codec_bytes_per_s=int(2 * 65536 / ENCODE_INTERVAL_S))
    namespace = store.register(fingerprint())
    for i in range(10):
        path = path_of(namespace, [i, *range(4)])
        store.put_batch(path, pages_of(path, PIECES))
    for step in range(1, 4):
        store._encode()
        assert store.stats().pages_encoded == 2 * step
    assert store.stats().encode_s > 0
    store.close()


def test_a_call_under_way_comes_first():
    store = open_store(codec="idle", codec_bytes_per_s=MIB)
    namespace = store.register(fingerprint())
    for i in range(10):
        path = path_of(namespace, [i, *range(4)])
        store.put_batch(path, pages_of(path, PIECES))
    with store._gate.entered():
        store._encode()
    assert store.stats().pages_encoded == 0
    store._encode()
    assert store.stats().pages_encoded > 0
    store.close()
