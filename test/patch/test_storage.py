"""The adapter on real host pools and a real store: a hit is bit-equal, a failure is a miss."""

import dataclasses
import os
import shutil
import threading
from array import array
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.config import MIB
from sglang_lsm.errors import ConfigError, FormatVersionError
from sglang_lsm.pages import PagePath
from sglang_pools import (
    HEAD_DIM,
    NUM_PAGES,
    PAGE_SIZE,
    V_HEAD_DIM,
    chain,
    host_pool_of,
    make_storage_config,
    mha_device_pool,
    mha_pool,
    mla_pool,
    slots,
)

from sglang_lsm_patch.eviction import EvictionPath
from sglang_lsm_patch.host_pages import host_pages
from sglang_lsm_patch.options import ModelSource, WriteConfig
from sglang_lsm_patch.storage import LsmStorage

ROOT_TO_LEAF = chain(200)


def info(prefix_keys):
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageExtraInfo

    return HiCacheStorageExtraInfo(prefix_keys=prefix_keys)


def page_content(pool, page):
    return [bytes(piece) for piece in host_pages(pool).buffers(slots([page]), 1)[0]]


@pytest.mark.parametrize(
    "make_pool",
    [
        lambda: mha_pool("page_first", dtype=torch.bfloat16),
        lambda: mha_pool("page_first_direct"),
        lambda: mha_pool("layer_first"),
        lambda: mha_pool("page_head"),
        lambda: mha_pool("page_first", v_head_dim=V_HEAD_DIM),
        lambda: mla_pool("page_first"),
    ],
)
def test_pages_come_back_bit_equal_into_other_slots(make_storage, make_pool):
    pool = make_pool()
    storage = make_storage(pool)
    keys = ROOT_TO_LEAF[:3]
    expected = [page_content(pool, page) for page in (4, 0, 2)]

    assert storage.batch_set_v1(keys, slots([4, 0, 2]), info([])) == [True] * 3
    assert storage.batch_get_v1(keys, slots([1, 3, 5]), info(None)) == [True] * 3

    assert [page_content(pool, page) for page in (1, 3, 5)] == expected


@given(stored=st.integers(0, 150), first=st.integers(0, 150), asked=st.integers(0, 150))
def test_probe_and_get_find_the_leading_run(tmp_path_factory, stored, first, asked):
    """Whatever the batches a path was written in, and wherever the question starts."""
    from sglang_lsm.config import MIB, IndexConfig, LogConfig

    from sglang_lsm_patch.options import TierSettings

    pool = mha_pool()
    settings = TierSettings(
        path=str(tmp_path_factory.mktemp("tier")),
        quota_bytes=64 * MIB,
        min_free_bytes=0,
        log=LogConfig(segment_bytes=MIB),
        index=IndexConfig(),
        model=ModelSource(),
        write_policy="through",
    )
    storage = LsmStorage(make_storage_config(settings), {})
    storage.register_mem_pool_host(pool)
    for start in range(0, stored, 5):
        keys = ROOT_TO_LEAF[start : min(start + 5, stored)]
        pages = [i % NUM_PAGES for i in range(len(keys))]
        assert all(storage.batch_set_v1(keys, slots(pages), info(ROOT_TO_LEAF[:start])))

    keys = ROOT_TO_LEAF[first : first + asked]
    expected = max(0, min(stored - first, len(keys)))
    assert storage.batch_exists(keys, info(ROOT_TO_LEAF[:first])) == expected
    few = keys[:NUM_PAGES]
    found = storage.batch_get_v1(few, slots(range(len(few))), info(ROOT_TO_LEAF[:first]))
    assert found == [i < expected for i in range(len(few))]
    assert storage.miss_counts() == {}
    storage.close()


def test_pages_survive_a_restart(make_storage):
    pool = mha_pool()
    first = make_storage(pool)
    first.batch_set_v1(ROOT_TO_LEAF[:2], slots([0, 1]), info([]))
    first.close()
    assert make_storage(pool).batch_exists(ROOT_TO_LEAF[:4], info(None)) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"make_pool": lambda: mha_pool("page_first")},
        {"make_pool": lambda: mha_pool(dtype=torch.float16)},
        {"make_pool": lambda: mha_pool(page_size=2 * PAGE_SIZE)},
        {"make_pool": lambda: mha_pool(v_head_dim=V_HEAD_DIM)},
        {"make_pool": lambda: mla_pool()},
        {"model": {"revision": "other"}},
        {"model": {"json_model_override_args": '{"rope_theta": 1}'}},
        {"model": {"kv_cache_dtype": "fp8_e5m2"}},
        {"config": {"tp_size": 2}},
    ],
)
def test_what_differs_in_anything_but_tokens_never_hits(make_storage, settings, other):
    first = make_storage(mha_pool())
    first.batch_set_v1(ROOT_TO_LEAF[:2], slots([0, 1]), info([]))
    first.close()

    model = dataclasses.replace(settings.model, **other.get("model", {}))
    second = make_storage(
        other.get("make_pool", mha_pool)(),
        of=dataclasses.replace(settings, model=model),
        **other.get("config", {}),
    )

    assert second.batch_exists(ROOT_TO_LEAF[:2], info([])) == 0


def test_requests_of_another_adapter_or_salt_never_hit(make_storage):
    """SGLang puts both into the page hashes; the ones stored here are its own."""
    from sglang.srt.mem_cache.radix_cache import RadixKey
    from sglang.srt.mem_cache.utils import get_storage_hash_str

    storage = make_storage(mha_pool())
    tokens = array("q", range(3 * PAGE_SIZE))
    names = ((None, None), ("lora", None), (None, "lora"), ("lora", "a"), ("lor", "aa"), ("", None))
    paths = [
        get_storage_hash_str(RadixKey(tokens, extra_key=adapter, cache_salt=salt), None, PAGE_SIZE)
        for adapter, salt in names
    ]
    for num_stored, path in enumerate(paths):
        found = [storage.batch_exists(each, info([])) for each in paths]
        assert found == [3] * num_stored + [0] * (len(paths) - num_stored)
        assert all(storage.batch_set_v1(path, slots(range(3)), info([])))


def test_other_weights_under_the_same_path_never_hit(make_storage, settings):
    pool = mha_pool()
    first = make_storage(pool)
    first.batch_set_v1(ROOT_TO_LEAF[:2], slots([0, 1]), info([]))
    first.close()
    weights = Path(settings.model.model_path) / "model.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)
    os.utime(weights, ns=(1, 1))
    assert make_storage(pool).batch_exists(ROOT_TO_LEAF[:2], info([])) == 0


def test_a_page_is_found_only_at_its_place_on_the_path(make_storage):
    storage = make_storage(mha_pool())
    storage.batch_set_v1(ROOT_TO_LEAF[:3], slots([0, 1, 2]), info([]))
    assert storage.batch_exists(ROOT_TO_LEAF[1:3], info(ROOT_TO_LEAF[:1])) == 2
    assert storage.batch_exists(ROOT_TO_LEAF[1:3], info([])) == 0


def test_the_old_calls_copy_pages(make_storage):
    pool = mha_pool("page_first")
    storage = make_storage(pool)
    page = pool.get_data_page(PAGE_SIZE)
    keys = ROOT_TO_LEAF[:3]

    assert storage.set(keys[0], page) and storage.batch_set(keys[1:2], [page + 1])

    assert [storage.exists(key) for key in keys] == [True, True, False]
    assert storage.batch_exists(keys) == 2
    assert torch.equal(storage.get(keys[0]), page)
    target = torch.zeros_like(page)
    assert storage.get(keys[1], target) is target and torch.equal(target, page + 1)
    found = storage.batch_get(keys, [torch.zeros_like(page) for _ in keys])
    assert torch.equal(found[1], page + 1) and found[2] is None


MALFORMED = [
    (["not hexadecimal"], slots([0])),
    (["ab"], slots([0])),
    ([None], slots([0])),
    (ROOT_TO_LEAF[:1], slots([0])[:-1]),
    (ROOT_TO_LEAF[:2], slots([0])),
    (ROOT_TO_LEAF[:1], slots([999])),
]


@pytest.mark.parametrize(("keys", "indices"), MALFORMED)
def test_malformed_requests_are_misses(make_storage, keys, indices):
    storage = make_storage(mha_pool())
    assert storage.batch_set_v1(keys, indices, info([])) == [False] * len(keys)
    assert storage.batch_get_v1(keys, indices, info([])) == [False] * len(keys)
    assert storage.miss_counts() == {"ConfigError": 2}


@pytest.mark.parametrize(
    "value", [None, torch.zeros(3), torch.zeros(2, 2).t(), "page", torch.zeros(1, device="meta")]
)
def test_wrong_tensors_are_misses(make_storage, value):
    storage = make_storage(mha_pool("page_first"))
    key = ROOT_TO_LEAF[0]
    assert storage.set(key, value) is False
    assert storage.batch_set([key], value) is False
    assert storage.batch_get([key], [value]) == [None]
    assert storage.miss_counts()["ConfigError"] == 3


def test_after_close_everything_is_a_miss(make_storage):
    storage = make_storage(mha_pool())
    storage.batch_set_v1(ROOT_TO_LEAF[:1], slots([0]), info([]))
    storage.close()
    storage.close()
    assert storage.batch_exists(ROOT_TO_LEAF[:1], info([])) == 0
    assert storage.batch_get_v1(ROOT_TO_LEAF[:1], slots([0]), info([])) == [False]
    assert storage.batch_set_v1(ROOT_TO_LEAF[:1], slots([0]), info([])) == [False]
    assert storage.clear() is False
    assert storage.miss_counts() == {"ClosedError": 4}


def test_a_call_that_the_disk_holds_up_does_not_hold_up_the_end(make_storage, settings):
    """Detaching the tier hung the scheduler until the disk answered."""
    write = WriteConfig(flush_timeout_s=0.01)
    storage = make_storage(mha_pool(), of=dataclasses.replace(settings, write=write))
    with storage._store._gate.entered():
        storage.close()
        assert storage.batch_exists(ROOT_TO_LEAF[:1], info([])) == 0
    assert storage.miss_counts() == {"ClosedError": 1}


def test_before_the_host_pool_is_known_everything_is_a_miss(settings):
    storage = LsmStorage(make_storage_config(settings), {})
    assert storage.batch_exists(ROOT_TO_LEAF[:1], info([])) == 0
    storage.close()


def test_a_store_that_cannot_be_opened_is_no_reason_to_die(settings, make_storage, tmp_path):
    """The disk died over night: the server starts, without a disk tier."""
    (tmp_path / "tier").write_text("not a directory")
    storage = make_storage(mha_pool())
    assert storage.batch_set_v1(ROOT_TO_LEAF[:1], slots([0]), info([])) == [False]
    assert storage.batch_exists(ROOT_TO_LEAF[:1], info([])) == 0
    assert storage.miss_counts()["UnavailableError"] == 1


def test_requests_go_on_when_the_directory_is_deleted_while_serving(make_storage, settings):
    pool = mha_pool()
    storage = make_storage(pool)
    storage.batch_set_v1(ROOT_TO_LEAF[:2], slots([0, 1]), info([]))
    shutil.rmtree(settings.path)
    before = page_content(pool, 0)

    for start in range(0, 150, 2):
        keys = ROOT_TO_LEAF[start : start + 2]
        storage.batch_set_v1(keys, slots([0, 1]), info(ROOT_TO_LEAF[:start]))
        found = storage.batch_get_v1(keys, slots([2, 3]), info(ROOT_TO_LEAF[:start]))
        assert not found[0] or page_content(pool, 2) == before


def test_a_second_server_on_the_directory_is_refused(make_storage, settings):
    make_storage(mha_pool())
    with pytest.raises(ConfigError):
        LsmStorage(make_storage_config(settings), {})


def test_ranks_keep_stores_of_their_own(make_storage):
    first = make_storage(mha_pool(), tp_size=2)
    second = make_storage(mha_pool(), tp_size=2, tp_rank=1)
    first.batch_set_v1(ROOT_TO_LEAF[:1], slots([0]), info([]))
    assert first.batch_exists(ROOT_TO_LEAF[:1], info([])) == 1
    assert second.batch_exists(ROOT_TO_LEAF[:1], info([])) == 0


def test_a_newer_store_is_refused_and_left_untouched(settings, newer_store):
    before = newer_store()
    with pytest.raises(FormatVersionError):
        LsmStorage(make_storage_config(settings), {})
    changed = {path for path, data in newer_store().items() if before.get(path) != data}
    assert {path.name for path in changed} <= {"LOCK"}


def test_started_without_the_flag_is_refused(settings):
    config = dataclasses.replace(make_storage_config(settings), extra_config={})
    with pytest.raises(ConfigError, match="--kv-storage"):
        LsmStorage(config, {})


def test_a_page_larger_than_a_segment_is_refused(settings):
    from sglang_lsm.config import MIB, LogConfig

    big = mha_pool(page_size=4096)
    assert big.get_size_per_token() * 4096 >= MIB
    small = dataclasses.replace(settings, log=LogConfig(segment_bytes=MIB))
    storage = LsmStorage(make_storage_config(small), {})
    with pytest.raises(ConfigError, match="does not fit"):
        storage.register_mem_pool_host(big)
    storage.close()


def test_clear_forgets_this_model_only(make_storage, settings):
    pool = mha_pool()
    other_model = dataclasses.replace(settings.model, revision="other")
    other = make_storage(pool, of=dataclasses.replace(settings, model=other_model))
    other.batch_set_v1(ROOT_TO_LEAF[:1], slots([0]), info([]))
    other.close()
    storage = make_storage(pool)
    storage.batch_set_v1(ROOT_TO_LEAF[:1], slots([0]), info([]))

    assert storage.clear() is True

    assert storage.batch_exists(ROOT_TO_LEAF[:1], info([])) == 0
    storage.close()
    again = make_storage(pool, of=dataclasses.replace(settings, model=other_model))
    assert again.batch_exists(ROOT_TO_LEAF[:1], info([])) == 1


def test_stats_are_taken_once(make_storage):
    storage = make_storage(mha_pool())
    storage.batch_set_v1(ROOT_TO_LEAF[:3], slots([0, 1, 2]), info([]))
    storage.batch_get_v1(ROOT_TO_LEAF[:5], slots([0, 1, 2, 3, 4]), info([]))

    stats = storage.get_stats()

    assert (stats.backup_pgs, stats.prefetch_pgs) == ([3], [3])
    assert len(stats.backup_bandwidth) == len(stats.prefetch_bandwidth) == 1
    assert stats.backup_bandwidth[0] > 0
    assert storage.get_stats().backup_pgs == []


def test_no_stats_when_metrics_are_off(make_storage):
    assert make_storage(mha_pool(), enable_storage_metrics=False).get_stats() is None


def test_the_figures_do_not_wait_for_a_write_to_the_index(make_storage):
    """The scheduler asks for them every 5 s. They counted the stored pages, under the lock that
    writes of the index hold: on a slow disk all requests stood still."""
    storage = make_storage(mha_pool())
    storage.batch_set_v1(ROOT_TO_LEAF[:3], slots([0, 1, 2]), info([]))
    told = []
    asking = threading.Thread(target=lambda: told.append(storage.figures()), daemon=True)
    with storage._store._catalog._lock:
        asking.start()
        asking.join(10)
        assert len(told) == 1
    assert 0 < told[0].bytes == storage._store.stats().allocated_bytes
    assert told[0].quota_bytes == storage._store.stats().quota_bytes


def test_the_log_says_in_one_line_that_the_tier_is_on(make_storage, settings, caplog):
    with caplog.at_level("INFO", logger="sglang_lsm_patch.storage"):
        make_storage(mha_pool())
    (line,) = [r.getMessage() for r in caplog.records if "kv storage on" in r.getMessage()]
    for part in (settings.path, "size_bytes=67108864", "namespace=", "page_bytes=", HEAD_DIM):
        assert str(part) in line


def test_what_the_eviction_path_writes_is_found_and_figured(make_storage):
    pool = mha_pool()
    storage = make_storage(pool)
    eviction = EvictionPath(storage.eviction_target(), clock=lambda: 0.0)
    eviction.computed(slots([4, 0]), ROOT_TO_LEAF[1:3], ROOT_TO_LEAF[:1])
    eviction.computed(slots([2]), ROOT_TO_LEAF[:1], [])
    eviction.close()

    assert storage.batch_exists(ROOT_TO_LEAF[:4], info([])) == 3
    assert sum(storage.get_stats().backup_pgs) == 3
    expected = [page_content(pool, page) for page in (2, 4, 0)]
    assert all(storage.batch_get_v1(ROOT_TO_LEAF[:3], slots([1, 3, 5]), info([])))
    assert [page_content(pool, page) for page in (1, 3, 5)] == expected


def test_without_memory_for_pages_of_the_device_the_tier_goes_on(make_storage, settings):
    write = WriteConfig(staging_bytes=1 << 60)
    device = mha_device_pool()
    storage = make_storage(host_pool_of(device), of=dataclasses.replace(settings, write=write))
    assert storage.eviction_target(device).device is None
    assert storage.miss_counts() == {"UnavailableError": 1}


def test_a_model_with_further_pools_is_written_through(make_storage, settings):
    """The eviction path knows KV pages only; a KV page without its window would never hit."""
    from sglang.srt.mem_cache.hicache_storage import PoolName

    storage = make_storage(mha_pool(), of=dataclasses.replace(settings, write_policy="evict"))
    storage.register_mem_host_pool_v2(mha_pool(), PoolName.KV)
    assert storage.write_policy == "evict"
    assert storage.eviction_target() is not None
    storage.register_mem_host_pool_v2(mha_pool(), PoolName.SWA)
    assert storage.write_policy == "through"
    assert storage.eviction_target() is None


def test_other_weights_never_find_the_pages_of_the_first(make_storage):
    pool = mha_pool()
    storage = make_storage(pool)
    storage.batch_set_v1(ROOT_TO_LEAF[:2], slots([0, 1]), info([]))
    for _ in range(2):
        storage.weights_change()
        storage.weights_changed()
        assert storage.batch_exists(ROOT_TO_LEAF[:2], info([])) == 0
        storage.batch_set_v1(ROOT_TO_LEAF[:1], slots([2]), info([]))
        assert storage.batch_exists(ROOT_TO_LEAF[:2], info([])) == 1
    storage.close()
    # After a restart the weights are those at the model's path again.
    assert make_storage(pool).batch_exists(ROOT_TO_LEAF[:2], info([])) == 2
    assert storage.miss_counts() == {}


def test_pages_of_an_update_leave_the_disk_at_the_next_one_and_at_the_next_start(
    make_storage, monkeypatch
):
    """Nobody can find them any more, and they took the room of pages that are asked for."""
    # At once, so that nothing has to be waited for.
    monkeypatch.setattr("sglang_lsm_patch.dead_names.in_background", lambda action: action())
    storage = make_storage(mha_pool())

    def num_stored():
        store = storage._store
        paths = [PagePath(namespace, []) for namespace in store.fingerprints()]
        return sum(len(store.list_subtree(path, max_pages=100)) for path in paths)

    storage.batch_set_v1(ROOT_TO_LEAF[:2], slots([0, 1]), info([]))
    for _ in range(2):
        storage.weights_change()
        storage.weights_changed()
        assert num_stored() == 2
        storage.batch_set_v1(ROOT_TO_LEAF[:3], slots([0, 1, 2]), info([]))
        assert num_stored() == 5
    storage.close()
    storage = make_storage(mha_pool())
    assert num_stored() == 2
    assert storage.batch_exists(ROOT_TO_LEAF[:3], info([])) == 2


def test_while_weights_change_nothing_is_found_or_kept(make_storage):
    """Pages of the old weights that SGLang's queue still held were written under the new name."""
    from sglang.srt.mem_cache.hicache_storage import PoolName, PoolTransfer

    pool, swa = mha_pool(), mha_pool()
    storage = make_storage(pool)
    storage.register_mem_host_pool_v2(swa, PoolName.SWA)
    keys = ROOT_TO_LEAF[:2]
    window = [PoolTransfer(name=PoolName.SWA, host_indices=slots([0, 1]), keys=keys)]

    def write():
        written = storage.batch_set_v1(keys, slots([0, 1]), info([]))
        return written + storage.batch_set_v2(window, info([]))[PoolName.SWA]

    assert all(write())
    storage.weights_change()
    assert storage.batch_exists(keys, info([])) == 0
    assert not any(storage.batch_get_v1(keys, slots([0, 1]), info([])))
    assert not any(storage.batch_get_v2(window, info([]))[PoolName.SWA])
    assert not any(write())
    storage.weights_changed()
    assert storage.batch_exists(keys, info([])) == 0
    assert storage.batch_exists_v2(keys, window, info([])).kv_hit_pages == 0
    assert all(write())
    assert storage.batch_exists_v2(keys, window, info([])).kv_hit_pages == 2


def test_pages_hit_above_outlive_those_that_were_not(make_storage, settings):
    """All are written once and never read from disk: only the hits above tell them apart."""
    storage = make_storage(mha_pool(), of=dataclasses.replace(settings, quota_bytes=4 * MIB))
    hot = [chain(4, seed=f"hot {i}") for i in range(60)]
    cold = [chain(4, seed=f"cold {i}") for i in range(60)]

    def write(keys):
        storage.batch_set_v1(keys, slots([0, 1, 2, 3]), info([]))

    for both in zip(hot, cold, strict=True):
        for keys in both:
            write(keys)
    for i in range(600):
        keys = hot[i % len(hot)]
        storage.note_hit(lambda keys=keys: [bytes.fromhex(key) for key in keys])
        write(chain(4, seed=f"new {i}"))

    assert sum(storage.batch_exists(keys, info([])) for keys in hot) == 4 * len(hot)
    assert sum(storage.batch_exists(keys, info([])) for keys in cold) < 2 * len(cold)


@pytest.mark.parametrize("gate", ["auto", "off"])
def test_a_hit_that_is_faster_computed_is_not_loaded(make_storage, settings, gate):
    storage = make_storage(mha_pool(), of=dataclasses.replace(settings, gate=gate))
    keys = ROOT_TO_LEAF[:4]
    storage.batch_set_v1(keys, slots(range(4)), info([]))
    storage.note_prefill(num_tokens=4096, seconds=1e-9)
    # Nothing was read yet, so nobody knows how fast the disk is.
    assert storage.batch_exists(keys, info([])) == 4
    assert all(storage.batch_get_v1(keys, slots(range(4)), info([])))
    assert storage.batch_exists(keys, info([])) == (0 if gate == "auto" else 4)
    storage.note_prefill(num_tokens=1 << 20, seconds=1e9)
    assert storage.batch_exists(keys, info([])) == 4


def test_no_more_is_granted_than_sglang_waits_for(make_storage):
    storage = make_storage(mha_pool())
    keys = ROOT_TO_LEAF[:4]
    storage.batch_set_v1(keys, slots(range(4)), info([]))
    storage.batch_get_v1(keys, slots(range(4)), info([]))
    asked = []
    storage.waits_for_loads(lambda num_tokens: asked.append(num_tokens) or 0.0)
    assert storage.batch_exists(keys, info([])) == 0
    assert asked == [4 * PAGE_SIZE]


def test_a_tuned_store_ends_its_thread_when_it_is_closed(make_storage, settings):
    def names():
        return [thread.name for thread in threading.enumerate()]

    tuned = dataclasses.replace(settings, tune="auto", operator_set="log.io_mode")
    storage = make_storage(mha_pool(), of=tuned)
    assert "kv-storage-tune" in names()
    storage.close()
    assert "kv-storage-tune" not in names()
