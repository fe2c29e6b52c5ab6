"""Pools beside KV on SGLang's real host pools: each page comes back bit-equal, and a prefix counts
only where every pool can go on from it.
"""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorageExtraInfo,
    PoolHitPolicy,
    PoolName,
    PoolTransfer,
    PoolTransferResult,
)
from sglang_lsm.config import MIB, IndexConfig, LogConfig
from sglang_pools import (
    NUM_PAGES,
    PAGE_SIZE,
    chain,
    make_storage_config,
    mamba_pool,
    mha_pool,
    mla_pool,
    slots,
)

from sglang_lsm_patch.host_pages import host_pages
from sglang_lsm_patch.options import ModelSource, TierSettings
from sglang_lsm_patch.pools import no_longer_than
from sglang_lsm_patch.storage import LsmStorage

PATH = chain(130)
TRAILING = PoolHitPolicy.TRAILING_PAGES


def info(prefix_keys):
    return HiCacheStorageExtraInfo(prefix_keys=prefix_keys)


def content(pool, page):
    (pieces,) = host_pages(pool).buffers(slots([page], pool.page_size), 1)
    return [bytes(piece) for piece in pieces]


def moved(pool_name, pool, keys, pages, policy=TRAILING):
    """A transfer between pages of a host pool and the store."""
    return PoolTransfer(
        name=pool_name, keys=keys, host_indices=slots(pages, pool.page_size), hit_policy=policy
    )


def asked(pool_name, num_pages, policy=TRAILING):
    """A transfer as it is when existence is asked for: only the number of keys counts."""
    return PoolTransfer(name=pool_name, keys=["__placeholder__"] * num_pages, hit_policy=policy)


@pytest.mark.parametrize(
    ("name", "make_pool"),
    [
        (PoolName.SWA, lambda: mha_pool("page_first", dtype=torch.bfloat16)),
        (PoolName.SWA, lambda: mha_pool("page_first_direct")),
        (PoolName.SWA, lambda: mha_pool("layer_first")),
        (PoolName.DRAFT, lambda: mla_pool("page_first")),
        (PoolName.MAMBA, mamba_pool),
    ],
)
def test_pages_of_a_further_pool_come_back_bit_equal_into_other_slots(
    make_storage, name, make_pool
):
    pool = make_pool()
    storage = make_storage(mha_pool())
    storage.register_mem_host_pool_v2(pool, name)
    expected = [content(pool, page) for page in (4, 0)]
    before = info(PATH[:70])

    written = storage.batch_set_v2([moved(name, pool, PATH[70:72], [4, 0])], before)
    read = storage.batch_get_v2([moved(name, pool, PATH[70:72], [1, 3])], before)

    assert written == read == {name: [True, True]}
    assert [content(pool, page) for page in (1, 3)] == expected
    assert storage.miss_counts() == {}


def test_pools_with_equal_shapes_do_not_share_pages(make_storage):
    """A window's page and a KV page of one path differ in content only: names keep them apart."""
    kv, swa = mha_pool(), mha_pool()
    swa.k_buffer.add_(1)
    storage = make_storage(kv)
    storage.register_mem_host_pool_v2(swa, PoolName.SWA)
    storage.register_mem_host_pool_v2(mha_pool(), PoolName.DRAFT)
    expected = content(swa, 0)
    storage.batch_set_v1(PATH[:1], slots([0]), info([]))
    storage.batch_set_v2([moved(PoolName.SWA, swa, PATH[:1], [0])], info([]))

    assert storage.batch_get_v2([moved(PoolName.SWA, swa, PATH[:1], [2])], info([])) == {
        PoolName.SWA: [True]
    }
    assert content(swa, 2) == expected != content(kv, 0)
    draft = moved(PoolName.DRAFT, swa, PATH[:1], [3])
    assert storage.batch_get_v2([draft], info([])) == {PoolName.DRAFT: [False]}


# Each example writes a store of its own.
@settings(max_examples=20)
@given(
    num_kv=st.integers(0, 100),
    window=st.sets(st.integers(0, 99), max_size=60),
    states=st.sets(st.integers(0, 99), max_size=60),
    indexer=st.integers(0, 100),
    window_pages=st.integers(1, 4),
    first=st.integers(0, 70),
)
def test_what_can_be_restored_is_what_each_pool_has(
    tmp_path_factory, num_kv, window, states, indexer, window_pages, first
):
    """Wherever the question starts; the pages before it are in the tiers above."""
    kv, swa, mamba, draft = mha_pool(), mha_pool(), mamba_pool(), mha_pool()
    tier = TierSettings(
        path=str(tmp_path_factory.mktemp("tier")), quota_bytes=64 * MIB, min_free_bytes=0,
        log=LogConfig(segment_bytes=MIB), index=IndexConfig(), model=ModelSource(),
    )  # fmt: skip
    storage = LsmStorage(make_storage_config(tier), {})
    storage.register_mem_pool_host(kv)
    for pool, name in ((swa, PoolName.SWA), (mamba, PoolName.MAMBA), (draft, PoolName.INDEXER)):
        storage.register_mem_host_pool_v2(pool, name)
    for start in range(0, num_kv, NUM_PAGES):
        keys = PATH[start : min(start + NUM_PAGES, num_kv)]
        storage.batch_set_v1(keys, slots(range(len(keys))), info(PATH[:start]))
    written = ((PoolName.SWA, swa, window), (PoolName.MAMBA, mamba, states),
               (PoolName.INDEXER, draft, range(indexer)))  # fmt: skip
    for name, pool, pages in written:
        for page in pages:
            storage.batch_set_v2([moved(name, pool, [PATH[page]], [0])], info(PATH[:page]))

    transfers = [
        asked(PoolName.SWA, window_pages), asked(PoolName.MAMBA, 1),
        asked(PoolName.INDEXER, 1, PoolHitPolicy.ALL_PAGES),
    ]  # fmt: skip
    found = storage.batch_exists_v2(PATH[first:], transfers, info(PATH[:first]))

    expected = [
        n
        for n in range(1, max(0, min(num_kv, indexer) - first) + 1)
        if first + n - 1 in states
        and all(first + i in window for i in range(max(0, n - window_pages), n))
    ]
    assert found.restorable_prefix_pages == expected
    assert found.kv_hit_pages == max(expected, default=0)
    assert found.extra_pool_hit_pages[PoolName.KV] == max(0, num_kv - first)
    assert storage.miss_counts() == {}
    storage.close()


def test_pages_of_every_pool_survive_a_restart_and_a_clear_takes_them_all(make_storage):
    kv, mamba = mha_pool(), mamba_pool()
    question = PATH[:2], [asked(PoolName.MAMBA, 1)], info([])

    def start():
        storage = make_storage(kv)
        storage.register_mem_host_pool_v2(mamba, PoolName.MAMBA)
        return storage

    first = start()
    first.batch_set_v2([moved(PoolName.MAMBA, mamba, PATH[1:2], [0])], info(PATH[:1]))
    first.batch_set_v1(PATH[:2], slots([0, 1]), info([]))
    first.close()
    second = start()
    assert second.batch_exists_v2(*question).restorable_prefix_pages == [2]
    assert second.clear()
    assert second.batch_exists_v2(*question).restorable_prefix_pages == []
    read = moved(PoolName.MAMBA, mamba, PATH[1:2], [0])
    assert second.batch_get_v2([read], info(PATH[:1])) == {PoolName.MAMBA: [False]}


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        (PoolName.MAMBA, mamba_pool, lambda: mamba_pool(conv_width=5)),
        (PoolName.MAMBA, mamba_pool, lambda: mamba_pool(dtype=torch.float16)),
        (PoolName.SWA, mha_pool, lambda: mha_pool(page_size=2 * PAGE_SIZE)),
        (PoolName.SWA, mha_pool, lambda: mha_pool("page_first")),
        (PoolName.SWA, mha_pool, lambda: mla_pool()),
    ],
)
def test_another_shape_of_a_further_pool_never_hits(make_storage, name, one, other):
    kv = mha_pool()
    first = make_storage(kv)
    pool = one()
    first.register_mem_host_pool_v2(pool, name)
    assert first.batch_set_v2([moved(name, pool, PATH[:1], [0])], info([])) == {name: [True]}
    first.close()

    second = make_storage(kv)
    pool = other()
    second.register_mem_host_pool_v2(pool, name)
    assert second.batch_get_v2([moved(name, pool, PATH[:1], [1])], info([])) == {name: [False]}
    assert second.miss_counts() == {}


def test_new_weights_give_the_pages_of_each_pool_a_new_name(make_storage):
    mamba = mamba_pool()
    storage = make_storage(mha_pool())
    storage.register_mem_host_pool_v2(mamba, PoolName.MAMBA)
    state = moved(PoolName.MAMBA, mamba, PATH[:1], [0])
    storage.batch_set_v2([state], info([]))

    storage.weights_change()
    storage.weights_changed()

    assert storage.batch_get_v2([state], info([])) == {PoolName.MAMBA: [False]}
    assert storage.batch_set_v2([state], info([])) == {PoolName.MAMBA: [True]}
    assert storage.batch_get_v2([state], info([])) == {PoolName.MAMBA: [True]}


def test_a_malformed_transfer_is_a_counted_miss_of_its_pool_alone(make_storage):
    mamba, swa = mamba_pool(), mha_pool()
    storage = make_storage(mha_pool())
    storage.register_mem_host_pool_v2(mamba, PoolName.MAMBA)
    storage.register_mem_host_pool_v2(swa, PoolName.SWA)
    good = moved(PoolName.MAMBA, mamba, PATH[:1], [0])
    too_few_slots = PoolTransfer(name=PoolName.SWA, keys=PATH[:2], host_indices=slots([0]))
    no_slots = PoolTransfer(name=PoolName.SWA, keys=PATH[:2])
    unknown = moved(PoolName.DRAFT, swa, PATH[:1], [0])

    for bad in (too_few_slots, no_slots, unknown):
        results = storage.batch_set_v2([bad, good], info([]))
        assert results == {bad.name: [False] * len(bad.keys), PoolName.MAMBA: [True]}
    assert storage.miss_counts() == {"ConfigError": 3}


def test_block_groups_have_no_say_in_the_kv_pages(make_storage):
    storage = make_storage(mha_pool())
    storage.register_mem_host_pool_v2(mha_pool(), PoolName.DEEPSEEK_V4_C4)
    storage.batch_set_v1(PATH[:3], slots([0, 1, 2]), info([]))
    groups = [asked(PoolName.DEEPSEEK_V4_C4, 1, PoolHitPolicy.BLOCK_GROUPS)]
    found = storage.batch_exists_v2(PATH[:5], groups, info([]))
    assert found.restorable_prefix_pages == [1, 2, 3]
    assert PoolName.DEEPSEEK_V4_C4 not in found.extra_pool_hit_pages


def test_a_pool_that_states_no_addresses_keeps_the_tier_off(make_storage):
    storage = make_storage(mha_pool())
    storage.register_mem_host_pool_v2(mamba_pool(side_state=True), PoolName.MAMBA)
    assert storage.batch_set_v1(PATH[:1], slots([0]), info([])) == [False]
    found = storage.batch_exists_v2(PATH[:1], [asked(PoolName.MAMBA, 1)], info([]))
    assert (found.kv_hit_pages, found.restorable_prefix_pages) == (0, [])
    assert storage.miss_counts() == {"UnavailableError": 2}


@given(st.lists(st.booleans(), max_size=20), st.integers(0, 25))
def test_what_is_not_worth_loading_leaves_the_shorter_prefixes(restorable, num_worth):
    lengths = [n for n, is_restorable in enumerate(restorable, start=1) if is_restorable]
    found = PoolTransferResult(max(lengths, default=0), {PoolName.KV: 20}, lengths)
    kept = no_longer_than(found, num_worth)
    assert kept.restorable_prefix_pages == [n for n in lengths if n <= num_worth]
    assert kept.kv_hit_pages == max(kept.restorable_prefix_pages, default=0)
    assert kept.extra_pool_hit_pages == found.extra_pool_hit_pages


def test_a_hit_that_is_faster_computed_is_not_loaded_from_any_pool(make_storage, settings):
    kv, mamba = mha_pool(), mamba_pool()
    storage = make_storage(kv, of=dataclasses.replace(settings, gate="auto"))
    storage.register_mem_host_pool_v2(mamba, PoolName.MAMBA)
    storage.batch_set_v1(PATH[:4], slots(range(4)), info([]))
    storage.batch_set_v2([moved(PoolName.MAMBA, mamba, PATH[3:4], [0])], info(PATH[:3]))
    question = PATH[:4], [asked(PoolName.MAMBA, 1)], info([])
    assert storage.batch_exists_v2(*question).restorable_prefix_pages == [4]
    assert storage.batch_get_v1(PATH[:4], slots(range(4)), info([])) == [True] * 4

    # A prefill of no time at all.
    storage.note_prefill(num_tokens=1 << 20, seconds=1e-9)

    found = storage.batch_exists_v2(*question)
    assert (found.kv_hit_pages, found.restorable_prefix_pages) == (0, [])
    assert found.extra_pool_hit_pages[PoolName.KV] == 4


def test_without_a_host_tier_a_further_pool_keeps_the_tier_off(make_storage, settings):
    storage = make_storage(mha_pool(), of=dataclasses.replace(settings, host="off"))
    assert storage.batch_set_v1(PATH[:1], slots([0]), info([])) == [True]
    storage.register_mem_host_pool_v2(mha_pool(), PoolName.SWA)
    found = storage.batch_exists_v2(PATH[:1], [asked(PoolName.SWA, 1)], info([]))
    assert (found.kv_hit_pages, found.restorable_prefix_pages) == (0, [])
    assert storage.batch_exists(PATH[:1], info([])) == 0
    assert storage.miss_counts() == {"UnavailableError": 2}
