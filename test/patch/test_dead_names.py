"""Names of one update end with it: what is dead leaves the disk, and nothing else does."""

import dataclasses
import threading

import pytest
from sglang_lsm.config import MIB, LogConfig, StoreConfig
from sglang_lsm.pages import Fingerprint
from sglang_lsm.store import Store
from support.page_maker import pages_of, path_of

from sglang_lsm_patch.dead_names import (
    ends_with_process,
    forget_dead_names,
    in_background,
    name_for_update,
)

OF_PATH = Fingerprint(
    model="digest",
    kv_dtype="float16",
    layout="page_first",
    page_size=64,
    num_layers=1,
    num_kv_heads=1,
    head_dim=8,
    v_head_dim=8,
)


def updated(fingerprint):
    return dataclasses.replace(fingerprint, model=name_for_update(fingerprint.model))


@pytest.fixture
def store(tmp_path):
    config = StoreConfig(quota_bytes=8 * MIB, log=LogConfig(segment_bytes=MIB))
    store = Store.open(tmp_path / "store", config)
    yield store
    store.close()


def test_each_update_has_a_name_of_its_own_no_longer_than_the_last():
    once = name_for_update("digest")
    again = name_for_update(once)
    assert once != again and len(once) == len(again)
    assert [ends_with_process(name) for name in ("digest", once, again)] == [False, True, True]


def test_only_names_that_nobody_can_ask_for_are_forgotten(store):
    first, second, present = updated(OF_PATH), updated(OF_PATH), updated(OF_PATH)
    paths = {}
    for fingerprint in (OF_PATH, first, second, present):
        paths[fingerprint] = path_of(store.register(fingerprint), "abc")
        store.put_batch(paths[fingerprint], pages_of(paths[fingerprint], (600,)))
    forget_dead_names(store, lambda: [present.namespace])
    found = [store.probe(paths[each]) for each in (OF_PATH, first, second, present)]
    assert found == [3, 0, 0, 3]


def test_nobody_waits():
    gate = threading.Event()
    thread = in_background(gate.wait)
    assert thread.is_alive() and thread.daemon
    gate.set()
    thread.join(30.0)
