"""On reads, the prefix handed to the disk tier is the whole radix path, as on writes.

The symptom this holds back: upstream leaves the pages of the matched node out of `prefix_keys`, so
that a page is looked for at another place than it was written to, and every read below a matched
prefix misses.
"""

import dataclasses
from array import array
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from sglang_pools import fill, host_pool_of, make_storage_config, mha_pool, slots
from support.page_maker import joined

from sglang_lsm_patch.host_pages import host_pages
from sglang_lsm_patch.options import WriteConfig

PAGE_SIZE, NUM_TOKENS = 4, 1024


@pytest.fixture(scope="module", params=["python", "rust"])
def make_cache(request):
    """Build an `LsmRadixCache` on real pools and a real tree that keeps page hashes."""
    from sglang.srt.environ import envs
    from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler

    from sglang_lsm_patch.radix_cache import LsmRadixCache

    set_global_server_args_for_scheduler(ServerArgs(model_path="dummy", page_size=PAGE_SIZE))

    def make():
        with envs.SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND.override(request.param):
            cache = LsmRadixCache(cache_parameters())
        cache.tree_core.enable_storage = True
        cache.hicache_storage_pass_prefix_keys = True
        return cache

    return make


def cache_parameters():
    from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, ReqToTokenPool
    from sglang.srt.mem_cache.unified_cache.components.base import ComponentType

    pool = MHATokenToKVPool(
        size=NUM_TOKENS,
        page_size=PAGE_SIZE,
        dtype=torch.float32,
        head_num=1,
        head_dim=8,
        layer_num=1,
        device="cpu",
        enable_memory_saver=False,
    )
    allocator = PagedTokenToKVPoolAllocator(
        size=NUM_TOKENS,
        page_size=PAGE_SIZE,
        dtype=torch.float32,
        device="cpu",
        kvcache=pool,
        need_sort=False,
    )
    requests = ReqToTokenPool(
        size=1, max_context_len=NUM_TOKENS, device="cpu", enable_memory_saver=False
    )
    return CacheInitParams(
        req_to_token_pool=requests,
        token_to_kv_pool_allocator=allocator,
        page_size=PAGE_SIZE,
        disable=False,
        tree_components=(ComponentType.FULL,),
    )


def key_of(tokens):
    from sglang.srt.mem_cache.radix_cache import RadixKey

    return RadixKey(array("q", tokens))


def insert(cache, tokens):
    from sglang.srt.mem_cache.base_prefix_cache import InsertParams

    slots = cache.token_to_kv_pool_allocator.alloc(len(tokens))
    cache.insert(InsertParams(key=key_of(tokens), value=slots))


def matched_node(cache, tokens):
    from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams

    return cache.match_prefix(MatchPrefixParams(key=key_of(tokens))).last_device_node


def page_hashes(tokens):
    from sglang.srt.mem_cache.utils import get_storage_hash_str

    return get_storage_hash_str(key_of(tokens), None, page_size=PAGE_SIZE)


READS = {"prefetch_from_storage": ("request",), "query_storage_hit_length": ()}
"""The reading calls, and what they take before the node."""


@pytest.fixture
def passed_on(monkeypatch):
    """Call a reading method of the cache; return what upstream's method was handed."""
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

    seen = []
    for name in READS:
        monkeypatch.setattr(
            UnifiedRadixCache, name, lambda self, *args, **more: seen.append((args, more))
        )

    def call(cache, name, *args, **more):
        getattr(cache, name)(*READS[name], *args, **more)
        args, more = seen.pop()
        return args[len(READS[name]) :], more

    return call


# Few first tokens and few lengths, so that sequences share prefixes and split each other's nodes.
sequences = st.lists(
    st.lists(st.integers(0, 1), min_size=1, max_size=5).map(
        lambda pages: [100 * page + i for page in pages for i in range(PAGE_SIZE)]
    ),
    min_size=1,
    max_size=6,
)


@hypothesis_settings(max_examples=30)  # each builds a cache and its pools
@given(inserted=sequences, name=st.sampled_from(sorted(READS)))
def test_the_prefix_is_the_whole_path_at_every_node(make_cache, passed_on, inserted, name):
    cache = make_cache()
    for tokens in inserted:
        insert(cache, tokens)
    for tokens in inserted:
        node = matched_node(cache, tokens)
        upstreams = cache.get_prefix_hash_values(node)
        args, _ = passed_on(cache, name, node, [7] * PAGE_SIZE, "last", upstreams)
        assert args == (node, [7] * PAGE_SIZE, "last", page_hashes(tokens))


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("upstreams", [None, []])
def test_at_the_root_the_prefix_is_empty_and_known(make_cache, passed_on, name, upstreams):
    """None would mean unknown: upstream then drops the path after the first 128 pages."""
    cache = make_cache()
    root = matched_node(cache, [1] * PAGE_SIZE)
    args, _ = passed_on(cache, name, root, [7] * PAGE_SIZE, None, upstreams)
    assert args[3] == []


@pytest.mark.parametrize("name", READS)
def test_nothing_is_made_up_when_no_prefix_is_asked_for(make_cache, passed_on, name):
    cache = make_cache()
    cache.hicache_storage_pass_prefix_keys = False
    root = matched_node(cache, [1] * PAGE_SIZE)
    args, _ = passed_on(cache, name, root, [7] * PAGE_SIZE, None, None)
    assert args[3] is None


@pytest.mark.parametrize("name", READS)
def test_everything_else_is_passed_on_as_it_came(make_cache, passed_on, name):
    cache = make_cache()
    root = matched_node(cache, [1] * PAGE_SIZE)
    args, more = passed_on(
        cache, name, root, [7], last_hash="last", prefix_keys=None, extra_key="e", cache_salt="s"
    )
    assert args == (root, [7], "last", []) and more == {"extra_key": "e", "cache_salt": "s"}


class HitLog:
    """Where the cache's storage backend would be told of hits."""

    def __init__(self, storage):
        self.paths = []
        storage.note_hit = lambda hashes: self.paths.append(list(hashes()))


@pytest.fixture(params=["evict", "through", "selective"])
def cache_with_tier(request, make_cache, settings, make_storage):
    """A cache of each write policy on a real storage backend, and what hits it reports."""
    cache = make_cache()
    storage = make_storage(mha_pool(), of=dataclasses.replace(settings, write_policy=request.param))
    cache.cache_controller = SimpleNamespace(
        storage_backend=storage, storage_config=make_storage_config(settings)
    )
    cache._start_eviction()
    yield cache, HitLog(storage)
    cache._stop_eviction()


def match(cache, tokens, request_id=None):
    from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams

    req = None if request_id is None else SimpleNamespace(rid=request_id)
    cache._match_tree(MatchPrefixParams(key=key_of(tokens), req=req))


def test_the_store_learns_once_which_path_a_request_found(cache_with_tier):
    cache, log = cache_with_tier
    shared = list(range(2 * PAGE_SIZE))
    one, other = [*shared, *range(100, 104)], [*shared, *range(200, 208)]
    on_device_only = list(range(300, 312))
    for tokens in (one, other, on_device_only):
        insert(cache, tokens)
    for tokens in (one, other):
        to_host_tier(cache, tokens)

    match(cache, other)
    assert log.paths == []
    for _ in range(3):
        match(cache, [*other, *range(900, 904)], "request")
    match(cache, shared, "another")
    match(cache, [7] * PAGE_SIZE, "found nothing")
    match(cache, on_device_only, "a third")
    hashes = [bytes.fromhex(key) for key in page_hashes(other)]
    third = [bytes.fromhex(key) for key in page_hashes(on_device_only)]
    assert log.paths == [hashes, hashes[:2], third]


def to_host_tier(cache, tokens):
    """Tell the eviction path, where there is one, what a copy to the host tier would."""
    if cache._eviction is not None:
        keys = page_hashes(tokens)
        host_pages = list(range(len(keys)))
        cache._eviction.computed(slots(host_pages), keys, [])


def test_what_leaves_the_device_without_a_host_copy_is_written(make_cache, settings, make_storage):
    """Under pressure the tree gives up leaves, then what they hung on; all of it is found again."""
    cache = make_cache()
    device = cache.token_to_kv_pool_allocator.get_kvcache()
    host = host_pool_of(device)
    storage = make_storage(host, of=dataclasses.replace(settings, write_policy="evict"))
    cache.cache_controller = SimpleNamespace(
        storage_backend=storage,
        storage_config=make_storage_config(settings),
        write_policy="write_through",
    )
    cache._start_eviction()
    fill(device.k_buffer[0], seed=2)
    fill(device.v_buffer[0], seed=3)
    shared = list(range(3 * PAGE_SIZE))
    prompts = [[*shared, *range(100, 108)], [*shared, *range(200, 212)]]
    for tokens in prompts:
        insert(cache, tokens)
    expected = [device_content(cache, tokens) for tokens in prompts]

    evict(cache, NUM_TOKENS)
    for layer in (*device.k_buffer, *device.v_buffer):
        layer.zero_()
    cache._stop_eviction()
    for tokens, pages in zip(prompts, expected, strict=True):
        keys = page_hashes(tokens)
        assert storage.batch_get_v1(keys, slots(range(len(keys)))) == [True] * len(keys)
        found = host_pages(host).buffers(slots(range(len(keys))), len(keys))
        assert [joined(page) for page in found] == pages


def evict(cache, num_tokens):
    from sglang.srt.mem_cache.base_prefix_cache import EvictParams

    cache.evict(EvictParams(num_tokens=num_tokens))


def device_content(cache, tokens):
    """The bytes of each page of a prompt, where the tree says that they lie."""
    found = cache.path_device_indices(matched_node(cache, tokens))
    assert len(found) == len(tokens)
    device = cache.token_to_kv_pool_allocator.get_kvcache()
    return [
        b"".join(
            layer[page].contiguous().view(torch.uint8).numpy().tobytes()
            for layer in (*device.k_buffer, *device.v_buffer)
        )
        for page in found.split(PAGE_SIZE)
    ]


OLD = list(range(3 * PAGE_SIZE))
"""A prompt that was computed with the old weights."""


class Controller:
    """SGLang's controller as far as the cache needs it: host pool, backend, and a backup queue."""

    enable_storage = True
    write_policy = "write_through"

    def __init__(self, storage, settings, host):
        self.storage_backend, self.mem_pool_host = storage, host
        self.storage_config = make_storage_config(settings)
        self.backups = []

    def write_storage(self, host_slots, _tokens, keys, prefix_keys, extra_pools=None):
        self.backups.append((keys, host_slots, prefix_keys))
        return len(self.backups)

    def drain(self):
        """What the backup thread does."""
        from sglang.srt.mem_cache.hicache_storage import HiCacheStorageExtraInfo

        for keys, host_slots, prefix_keys in self.backups:
            self.storage_backend.batch_set_v1(
                keys, host_slots, HiCacheStorageExtraInfo(prefix_keys=prefix_keys)
            )
        self.backups.clear()

    def reset(self):
        self.backups.clear()


@pytest.fixture(params=["evict", "through"])
def make_serving(request, make_cache, settings, make_storage):
    """A cache whose device holds `OLD`, on a real storage backend; and that backend."""
    caches = []

    # Pages are small here, and a place for each takes time to make.
    tier = dataclasses.replace(
        settings, write_policy=request.param, write=WriteConfig(staging_bytes=0)
    )

    def make():
        cache = make_cache()
        host = host_pool_of(cache.token_to_kv_pool_allocator.get_kvcache())
        storage = make_storage(host, of=tier)
        cache.cache_controller = Controller(storage, settings, host)
        cache.reset()
        cache._start_eviction()
        insert(cache, OLD)
        caches.append(cache)
        return cache, storage

    yield make
    for cache in caches:
        cache._stop_eviction()


def serve_old_pages(cache):
    """What SGLang goes on with: pages reach the host tier and the backup queue, and leave the
    device."""
    node = matched_node(cache, OLD)
    cache.write_backup_storage(node)
    cache.cache_controller.backups.append((page_hashes(OLD), slots(range(3)), []))
    cache.cache_controller.drain()
    evict(cache, NUM_TOKENS)


def num_found(storage, tokens=OLD):
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageExtraInfo

    return storage.batch_exists(page_hashes(tokens), HiCacheStorageExtraInfo(prefix_keys=[]))


def test_pages_of_old_weights_are_never_found_under_the_new_name(make_serving):
    """The flush after an update was refused, so old pages reached the disk after the renaming: a
    later flush let the disk serve them to the new weights."""
    cache, storage = make_serving()
    cache.weights_change()
    cache.weights_changed(is_idle=False)
    serve_old_pages(cache)
    insert(cache, OLD)
    cache.weights_change()
    cache.weights_changed(is_idle=True)
    serve_old_pages(cache)
    assert num_found(storage) == 0
    cache.reset()
    cache._stop_eviction()
    assert num_found(storage) == 0
    # Pages of the new weights are kept again.
    assert all(storage.batch_set_v1(page_hashes(OLD), slots(range(3))))
    assert num_found(storage) == 3


def test_pieces_of_weights_are_one_change_however_often_the_tree_is_emptied(make_serving):
    """SGLang empties the tree after each piece; until the last one pages have mixed weights."""
    cache, storage = make_serving()
    cache.weights_change()
    for _ in range(2):
        cache.reset()
        insert(cache, OLD)
        serve_old_pages(cache)
    cache.weights_change()
    cache.weights_changed(is_idle=False)
    assert num_found(storage) == 0
    cache.reset()
    num_misses = storage.miss_counts()["UnavailableError"]
    assert num_found(storage) == 0
    assert storage.miss_counts() == {"UnavailableError": num_misses}


def test_after_an_update_in_an_emptied_tree_the_tier_goes_on_at_once(make_serving):
    cache, storage = make_serving()
    cache.weights_change()
    cache.reset()
    cache.weights_changed(is_idle=True)
    assert num_found(storage) == 0 and storage.miss_counts() == {}
    assert (cache._eviction is not None) == (storage.write_policy == "evict")


def test_pages_that_nobody_will_find_are_not_written_before_the_next_update(make_serving):
    cache, storage = make_serving()
    cache.weights_change()
    cache.reset()
    cache.weights_changed(is_idle=True)
    to_host_tier(cache, OLD)
    cache.weights_change()
    assert storage._store.stats().num_pages == 0


def test_a_tier_attached_after_an_update_knows_of_it(make_serving, monkeypatch):
    """It would take the weights for those at the model's path, also in the next process."""
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

    cache, storage = make_serving()
    controller = cache.cache_controller

    def attach(self):
        controller.storage_backend = storage
        return True, "attached"

    monkeypatch.setattr(UnifiedRadixCache, "attach_storage_backend", attach)
    assert all(storage.batch_set_v1(page_hashes(OLD), slots(range(3))))
    assert num_found(storage) == 3
    controller.storage_backend = None
    cache._stop_eviction()
    cache.weights_change()
    cache.weights_changed(is_idle=False)
    cache.attach_storage_backend()
    serve_old_pages(cache)
    cache.reset()
    assert num_found(storage) == 0


@pytest.mark.parametrize("is_detached", [False, True])
def test_a_tier_that_could_not_be_detached_is_written_to_as_before(
    make_serving, monkeypatch, is_detached
):
    """SGLang's threads did not end in time, say; nothing was written after that, without a word."""
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

    cache, storage = make_serving()

    def detach(self):
        if is_detached:
            self.cache_controller.storage_backend = None
        return is_detached, "said why"

    monkeypatch.setattr(UnifiedRadixCache, "detach_storage_backend", detach)
    assert cache.detach_storage_backend() == (is_detached, "said why")
    is_followed = storage.write_policy == "evict" and not is_detached
    assert (cache._eviction is not None) == is_followed
    if is_followed:
        to_host_tier(cache, OLD)
        cache._stop_eviction()
        assert num_found(storage) == 3


class FakeBackend:
    """Stands where the disk tier would, and notes what it is told about speed."""

    def __init__(self):
        self.prefills = []

    def note_prefill(self, *, num_tokens, seconds):
        self.prefills.append((num_tokens, seconds))


def test_prefills_are_told_one_by_one(make_cache, monkeypatch):
    cache, backend = make_cache(), FakeBackend()
    monkeypatch.setattr(cache, "_lsm_storage", lambda: backend)
    for num_tokens, seconds in [(100, 1.0), (300, 1.5), (300, 1.5), (310, 1.75)]:
        cache.note_prefills(num_tokens=num_tokens, seconds=seconds)
    # What ran before the first call is not known.
    assert backend.prefills == [(200, 0.5), (10, 0.25)]


def test_metrics_are_there_before_the_first_request(
    make_cache, settings, make_storage, monkeypatch
):
    cache, storage = make_cache(), make_storage(mha_pool())
    cache.cache_controller = SimpleNamespace(
        storage_backend=storage, storage_config=make_storage_config(settings)
    )
    registry = CollectorRegistry()
    monkeypatch.setattr("prometheus_client.REGISTRY", registry)
    cache.enable_storage_metrics = True
    cache.storage_metrics_collector = SimpleNamespace(labels={"storage_backend": "lsm"})
    cache._start_storage()
    assert registry.get_sample_value("sglang:kv_storage_quota_bytes", {"storage_backend": "lsm"})
    cache._stop_eviction()


def test_what_a_write_path_did_is_told_at_its_end_and_the_next_one_counts_afresh(
    make_cache, settings, make_storage, monkeypatch
):
    """A path that was started anew within an interval of the metrics took its totals with it."""
    write = WriteConfig(staging_bytes=0)
    tier = dataclasses.replace(settings, write_policy="evict", write=write)
    cache, storage = make_cache(), make_storage(mha_pool(), of=tier)
    cache.cache_controller = SimpleNamespace(
        storage_backend=storage, storage_config=make_storage_config(settings)
    )
    registry = CollectorRegistry()
    monkeypatch.setattr("prometheus_client.REGISTRY", registry)
    cache.enable_storage_metrics = True
    cache.storage_metrics_collector = SimpleNamespace(labels={"storage_backend": "lsm"})
    cache._start_storage()
    for num_pages, num_told in ((2, 2), (3, 5)):
        to_host_tier(cache, list(range(100 * num_pages, 100 * num_pages + num_pages * PAGE_SIZE)))
        cache._stop_eviction()
        labels = {"storage_backend": "lsm", "outcome": "stored"}
        assert registry.get_sample_value("sglang:kv_storage_write_pages_total", labels) == num_told
        cache._start_eviction()
    cache._stop_eviction()


def test_a_load_is_waited_for_as_long_as_the_policy_says(make_cache):
    cache = make_cache()
    cache.prefetch_timeout_base, cache.prefetch_timeout_per_page = 1.0, 0.5
    cache.prefetch_stop_policy = "timeout"
    assert cache._wait_limit_s(10 * PAGE_SIZE) == 6.0
    cache.prefetch_stop_policy = "wait_complete"
    assert cache._wait_limit_s(10 * PAGE_SIZE) == float("inf")


@pytest.mark.parametrize("num_trimmed", [0, 3])
def test_pages_left_out_of_a_read_stay_in_its_path(make_cache, num_trimmed):
    """Without a host tier, pages may reach the device between the query and the read."""
    cache, names = make_cache(), [f"{i:064x}" for i in range(8)]
    controller = SimpleNamespace(trim_prefetch_full_head=trim_head)
    cache.cache_controller, request = controller, "request"
    cache.buffer_pipeline = SimpleNamespace(_prefetch_prefix_ctx={request: ([], None, None)})
    operation = SimpleNamespace(
        sidecar_hash_values=None, hash_value=names[2:], prefix_keys=names[:2], storage_start=8
    )
    info = namedtuple("Info", "prefetch_key")(key_of(range(6 * PAGE_SIZE)))
    cache._trim_buffer_prefetch_full_head(
        request, info, operation, (2 + num_trimmed) * PAGE_SIZE, 6 * PAGE_SIZE
    )
    assert len(operation.prefix_keys) == 2 + num_trimmed
    assert [*operation.prefix_keys, *operation.hash_value] == names


def trim_head(operation, num_tokens):
    """What SGLang's controller does to the names of pages."""
    operation.hash_value = operation.hash_value[num_tokens // PAGE_SIZE :]
