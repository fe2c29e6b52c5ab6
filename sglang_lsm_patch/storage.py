"""The storage backend that SGLang's host tier talks to: its calls, translated into `Store` calls.

No policy, no file and no thread of its own. Nothing is ever raised into SGLang while it serves: its
storage threads are not restarted, so an exception would switch the tier off for the life of the
process. Each failure becomes a miss and a count, in `_or_miss` and nowhere else.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorage,
    HiCacheStorageConfig,
    HiCacheStorageExtraInfo,
    PoolName,
    PoolTransfer,
    PoolTransferResult,
)
from sglang_lsm.controller.service import TunerService
from sglang_lsm.errors import (
    ClosedError,
    ConfigError,
    CorruptionError,
    FormatVersionError,
    StoreError,
    UnavailableError,
)
from sglang_lsm.load_gate import GateFigures, LoadGate
from sglang_lsm.pages import Fingerprint, NamespaceId, PageBuffer, PagePath
from sglang_lsm.store import Store

from sglang_lsm_patch import dead_names
from sglang_lsm_patch.arguments import flat_page, one_per_key, page_path
from sglang_lsm_patch.device_pages import DevicePages, pages_beside
from sglang_lsm_patch.eviction import EvictionTarget
from sglang_lsm_patch.fingerprint import fingerprint_of, rank_directory
from sglang_lsm_patch.host_pages import HostPages, host_pages
from sglang_lsm_patch.misses import MissLog, TransferFigures
from sglang_lsm_patch.options import TierSettings
from sglang_lsm_patch.pools import Pool, Pools, no_longer_than, sidecar_pool
from sglang_lsm_patch.recency import HitQueue, PathOfHit
from sglang_lsm_patch.shutdown import end_within

logger = logging.getLogger(__name__)

T = TypeVar("T")
ExtraInfo = HiCacheStorageExtraInfo | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TierFigures:
    """What the tier measured and counted since its start, beside what SGLang counts."""

    read_bytes_per_second: float | None
    """None before it was measured, or without a gate."""
    prefill_tokens_per_second: float | None
    bytes: int | None
    """Allocated on disk; None while the store is not open."""
    quota_bytes: int | None
    gate: GateFigures | None
    failures: Mapping[str, int]
    """Calls that became misses, by reason."""


class LsmStorage(HiCacheStorage):  # type: ignore[misc]
    """One rank's disk tier. Thread-safe once the host pools are registered.

    Upstream: `HiCacheStorage`, loaded as backend `dynamic` with `interface_v1`.
    """

    def __init__(
        self, storage_config: HiCacheStorageConfig, kwargs: dict[str, Any] | None = None
    ) -> None:
        """Open this rank's store.

        Raises:
            ConfigError: started without `--kv-storage`, or another process has the store open.
            FormatVersionError: written by a newer format.
        """
        self._config = storage_config
        self._settings = TierSettings.from_extra_config(storage_config.extra_config)
        self._directory = rank_directory(self._settings, storage_config, _replica())
        self._misses = MissLog(time.monotonic)
        self._reads, self._writes = TransferFigures(), TransferFigures()
        self._store = self._open()
        self._pages: HostPages | None = None
        self._fingerprint: Fingerprint | None = None
        self._namespace = NamespaceId(b"")
        self._pools = Pools()
        self._unheld: list[str] = []
        self._weights_are_changing = False
        self._gate: LoadGate | None = None
        self._wait_limit_s: Callable[[int], float] = lambda _num_tokens: float("inf")
        self._hits = HitQueue(lambda path: self._ready().touch(path))
        self._tuner = self._start_tuner()

    def _open(self) -> Store | None:
        try:
            return Store.open(self._directory, self._settings.store_config())
        except FormatVersionError:
            raise
        except (UnavailableError, CorruptionError) as error:
            # A disk that died over night must not keep the server from starting.
            self._misses.note("open", error)
            return None

    def _start_tuner(self) -> TunerService | None:
        mode = self._settings.tune
        if self._store is None or mode == "off":
            return None
        fixed = self._settings.operator_set.split(",")
        return TunerService(
            self._store, mode=mode, fixed=fixed, recompute_s_per_byte=self._recompute_s_per_byte
        )

    def _recompute_s_per_byte(self) -> float:
        """Return the time that a byte of KV takes to compute; 0 before any was measured."""
        if self._gate is None or self._pages is None:
            return 0.0
        return (self._gate.speeds().compute_s or 0.0) / self._pages.page_bytes

    # What SGLang tells us at start-up.

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Learn the KV host pool; from here on pages can be read and written.

        Raises:
            ConfigError: a page does not fit a segment.
        """
        super().register_mem_pool_host(mem_pool_host)
        pages = host_pages(mem_pool_host)
        self._settings.require_fits(pages.page_bytes)
        fingerprint = fingerprint_of(mem_pool_host, self._config, self._settings)
        self._fingerprint, self._namespace = fingerprint, fingerprint.namespace
        self._pages = pages
        self._pools.add(PoolName.KV, Pool(pages, fingerprint))
        if self._settings.gate == "auto":
            self._gate = LoadGate(
                page_tokens=mem_pool_host.page_size,
                page_bytes=pages.page_bytes,
                wait_limit_s=lambda num_tokens: self._wait_limit_s(num_tokens),
            )
        if not self._or_miss("register", False, lambda: self._register(fingerprint)):
            return
        logger.info(
            "kv storage on. backend=lsm path=%s size_bytes=%d free_floor_bytes=%d namespace=%s "
            "page_bytes=%d page_size=%d write_policy=%s fingerprint=%s",
            self._directory, self._settings.quota_bytes, self._settings.min_free_bytes,
            self._namespace.hex(), pages.page_bytes, fingerprint.page_size,
            self._settings.write_policy, fingerprint.to_json(),
        )  # fmt: skip
        self._forget_dead_names()
        if self._config.is_mla_model and self._config.tp_size > 1:
            logger.info(
                "KV is the same on all ranks, and each keeps a copy. tp_size=%d",
                self._config.tp_size,
            )

    def _register(self, fingerprint: Fingerprint) -> bool:
        self._ready().register(fingerprint)
        return True

    def weights_change(self) -> None:
        """Keep and find nothing until `weights_changed`: each call is a miss.

        Called before other weights are loaded. A write that has begun ends under the name of the
        weights its pages come from; what waits behind it may be of either.
        """
        self._weights_are_changing = True

    def weights_changed(self) -> None:
        """Go on under a new name, since pages come from other weights than the model path's.

        To be called when no page of other weights is in memory or on its way to disk. The name is
        of this process alone: which weights they are cannot be told, so that none of their pages is
        found after a restart.
        """
        if self._fingerprint is not None:
            self._pools.rename_model(dead_names.name_for_update(self._fingerprint.model))
            self._fingerprint = self._pools.all()[0].fingerprint
            self._namespace = self._fingerprint.namespace
        self._weights_are_changing = False
        for pool in self._pools.all():
            self._or_miss("register", False, partial(self._register, pool.fingerprint))
        logger.info("weights changed, pages get a new name. namespace=%s", self._namespace.hex())
        self._forget_dead_names()

    @property
    def name_ends_with_process(self) -> bool:
        """Whether no later process, nor this one after the next update, finds what is written."""
        fingerprint = self._fingerprint
        return fingerprint is not None and dead_names.ends_with_process(fingerprint.model)

    def _forget_dead_names(self) -> None:
        def forget() -> None:
            dead_names.forget_dead_names(self._ready(), self._pools.namespaces)

        dead_names.in_background(lambda: self._or_miss("forget", None, forget))

    def waits_for_loads(self, limit_s: Callable[[int], float]) -> None:
        """Note how long SGLang waits for a load of so many tokens, in seconds."""
        self._wait_limit_s = limit_s

    def note_prefill(self, *, num_tokens: int, seconds: float) -> None:
        """Note that `num_tokens` were computed in `seconds`."""
        if self._gate is not None:
            self._gate.observe_prefill(num_tokens=num_tokens, seconds=seconds)

    @property
    def write_policy(self) -> str:
        """When pages are written, see `options.WRITE_POLICIES`; the same on every rank.

        `evict` knows KV pages only, so a model with pools beside them is written through.
        """
        policy = self._settings.write_policy
        return "through" if policy == "evict" and self._pools.sidecars() else policy

    def eviction_target(
        self, device_pool: Any = None, stream: Callable[[], Any] = lambda: None
    ) -> EvictionTarget | None:
        """Return where the eviction path writes to, or None while pages cannot be kept.

        Args:
            device_pool: SGLang's KV pool on the device.
            stream: tells the stream of the forward passes.
        """
        if self._pools.sidecars():
            return None

        def device_pages() -> DevicePages | None:
            pool, write = self.mem_pool_host, self._settings.write
            return pages_beside(device_pool, pool, staging_bytes=write.staging_bytes, stream=stream)

        def target() -> EvictionTarget:
            pool = self.mem_pool_host
            self._ready()
            pages = host_pages(pool)
            return EvictionTarget(
                store=self,
                namespace=self._namespace,
                pages=pages,
                page_size=pool.page_size,
                num_pages=pool.size // pool.page_size,
                config=self._settings.write,
                device=self._or_miss("device_pages", None, device_pages),
            )

        return self._or_miss("eviction_target", None, target)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """Learn of a pool beside the KV pool; a model with one that cannot be kept never hits."""
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        if host_pool_name == PoolName.KV or self._fingerprint is None:
            return
        try:
            self._settings.require_host_tier()
            pool = sidecar_pool(host_pool_name, host_pool, self._fingerprint)
            self._settings.require_fits(pool.pages.page_bytes)
        except ConfigError as error:
            self._unheld.append(str(host_pool_name))
            logger.warning(
                "kv storage is off: a pool of this model cannot be kept on disk. pool=%s reason=%s",
                host_pool_name, error,
            )  # fmt: skip
            return
        self._pools.add(host_pool_name, pool)
        if self._or_miss("register", False, lambda: self._register(pool.fingerprint)):
            logger.info(
                "kv storage holds another pool. pool=%s namespace=%s page_bytes=%d write_policy=%s",
                host_pool_name, pool.namespace.hex(), pool.pages.page_bytes, self.write_policy,
            )  # fmt: skip

    # Pages of one radix path, straight from and to the host pool.

    def batch_exists(self, keys: list[str], extra_info: ExtraInfo = None) -> int:
        """Return how many leading pages are stored and worth loading; each rank asks its own store
        and gate, and SGLang takes the least.

        Without `extra_info` the keys are taken as pages on their own, see `batch_set`.
        """
        if extra_info is None:
            return self._or_miss("batch_exists", 0, lambda: self._num_leading_single(keys))

        def probe() -> int:
            path = self._path(keys, extra_info)
            num_hits = self._ready().probe(path)
            return num_hits if self._gate is None else self._gate.grant(path, num_hits)

        return self._or_miss("batch_exists", 0, probe)

    def batch_get_v1(
        self, keys: list[str], host_indices: torch.Tensor, extra_info: ExtraInfo = None
    ) -> list[bool]:
        """Read pages into their host slots; True for the leading run that was found and verified,
        and read before the rest was faster computed.

        Args:
            host_indices: `[len(keys) * page_size]` int64 token slots.
        """

        def read() -> int:
            path = self._path(keys, extra_info)
            pace = None if self._gate is None else self._gate.begin(path)
            buffers = self._buffers(host_indices, len(keys))
            return self._ready().get_batch(path, buffers, pace=pace)

        started_s = time.perf_counter()
        num_pages = self._or_miss("batch_get_v1", 0, read)
        self._figure(self._reads, num_pages, started_s)
        self._enter_hits()
        return [i < num_pages for i in range(len(keys))]

    def batch_set_v1(
        self, keys: list[str], host_indices: torch.Tensor, extra_info: ExtraInfo = None
    ) -> list[bool]:
        """Write pages from their host slots; all True, or all False when the store failed."""

        def write() -> int:
            path = self._path(keys, extra_info)
            self._ready().put_batch(path, self._buffers(host_indices, len(keys)))
            return len(keys)

        self._enter_hits()
        started_s = time.perf_counter()
        num_pages = self._or_miss("batch_set_v1", 0, write)
        self._figure(self._writes, num_pages, started_s)
        return [num_pages == len(keys)] * len(keys)

    def put_batch(
        self,
        path: PagePath,
        pages: Sequence[PageBuffer],
        *,
        still_valid: Callable[[], bool] | None = None,
    ) -> bool:
        """Write pages for the eviction path, which counts failures itself: see `Store.put_batch`.

        Raises:
            StoreError: they were not stored.
        """
        self._enter_hits()
        started_s = time.perf_counter()
        is_stored = self._ready().put_batch(path, pages, still_valid=still_valid)
        self._figure(self._writes, len(pages) if is_stored else 0, started_s)
        return is_stored

    def note_hit(self, hashes: PathOfHit) -> None:
        """Note that a request found a path in device or host memory.

        Cheap, for the scheduler thread; the store learns of it before a page is written, and after
        one was read.
        """
        for pool in self._pools.all():
            self._hits.add(pool.namespace, hashes)

    def _enter_hits(self) -> None:
        self._or_miss("touch", None, self._hits.enter)

    # Models with pools beside KV: a prefix counts where each pool can go on from it.

    def batch_exists_v2(
        self,
        keys: list[str],
        pool_transfers: list[PoolTransfer] | None = None,
        extra_info: ExtraInfo = None,
    ) -> PoolTransferResult:
        """Return which prefixes are usable, given what each pool needs, and worth loading; see
        `Pools.exists`."""
        transfers = pool_transfers or []

        def probe() -> PoolTransferResult:
            found = self._pools.exists(self._ready(), keys, transfers, extra_info)
            if self._gate is None:
                return found
            num_worth = self._gate.grant(self._path(keys, extra_info), found.kv_hit_pages)
            return no_longer_than(found, num_worth)

        miss = PoolTransferResult(0, {str(t.name): 0 for t in transfers}, [])
        return self._or_miss("batch_exists_v2", miss, probe)

    def batch_get_v2(
        self, transfers: list[PoolTransfer], extra_info: ExtraInfo = None
    ) -> dict[str, list[bool]]:
        """Read each pool's pages into their host slots; True for the leading run found."""
        return self._each("batch_get_v2", self._pools.get, transfers, extra_info)

    def batch_set_v2(
        self, transfers: list[PoolTransfer], extra_info: ExtraInfo = None
    ) -> dict[str, list[bool]]:
        """Write each pool's pages from their host slots; all True, or all False, for a pool."""
        return self._each("batch_set_v2", self._pools.put, transfers, extra_info)

    def _each(
        self,
        call: str,
        move: Callable[[Store, PoolTransfer, ExtraInfo], int],
        transfers: list[PoolTransfer],
        extra_info: ExtraInfo,
    ) -> dict[str, list[bool]]:
        self._enter_hits()
        results = {}
        for transfer in transfers:
            num_pages = self._or_miss(
                call, 0, lambda transfer=transfer: move(self._ready(), transfer, extra_info)
            )
            results[transfer.name] = [i < num_pages for i in range(len(transfer.keys or ()))]
        return results

    # Pages on their own: SGLang's older calls, which copy and do not say where on a path a page is.

    def exists(self, key: str) -> bool:
        """Return whether the page is stored, see `batch_set`."""
        return self.batch_exists([key]) == 1

    def get(
        self, key: str, target_location: Any = None, target_sizes: Any = None
    ) -> torch.Tensor | None:
        """Return the page, in `target_location` where given, or None."""
        return self.batch_get([key], None if target_location is None else [target_location])[0]

    def batch_get(
        self, keys: list[str], target_locations: Any = None, target_sizes: Any = None
    ) -> list[torch.Tensor | None]:
        """Return each page, in its target where given, or None."""

        def read() -> list[torch.Tensor | None]:
            targets = self._targets(keys, target_locations)
            paths = self._single_paths(keys)
            store = self._ready()
            return [
                target if store.get_batch(path, [self._flat(target)]) == 1 else None
                for path, target in zip(paths, targets, strict=True)
            ]

        return self._or_miss("batch_get", [None] * len(keys), read)

    def set(
        self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None
    ) -> bool:
        """Store one page, see `batch_set`."""
        return self.batch_set([key], [value])

    def batch_set(
        self,
        keys: list[str],
        values: Any = None,
        target_locations: Any = None,
        target_sizes: Any = None,
    ) -> bool:
        """Store flat pages, each under its own hash as if it were the first of a path.

        The hash covers everything before the page, so it stays unambiguous; but such a page is
        found by these calls only, not by the ones that know the path.
        """

        def write() -> bool:
            buffers = [self._flat(value) for value in one_per_key(values, keys)]
            for path, buffer in zip(self._single_paths(keys), buffers, strict=True):
                self._ready().put_batch(path, [buffer])
            return True

        return self._or_miss("batch_set", False, write)

    # Lifetime and figures.

    def clear(self) -> bool:
        """Forget every page of this model in this rank, in each pool."""

        def forget() -> bool:
            for pool in self._pools.all():
                self._ready().clear(pool.namespace)
            return True

        return self._or_miss("clear", False, forget)

    def get_stats(self) -> Any:
        """Return the transfers since the last call as SGLang's `StorageMetrics`, or None. O(1)."""
        if not self._config.enable_storage_metrics:
            return None
        from sglang.srt.observability.metrics_collector import StorageMetrics

        read_pages, read_gb_per_s = self._reads.take()
        written_pages, written_gb_per_s = self._writes.take()
        return StorageMetrics(read_pages, written_pages, read_gb_per_s, written_gb_per_s)

    def figures(self) -> TierFigures:
        """Return what was measured and counted; touches no disk, and waits for nobody who does."""
        gate, pages, store = self._gate, self._pages, self._store
        speeds = gate.speeds() if gate is not None else None
        read_s = speeds.read_s if speeds is not None else None
        compute_s = speeds.compute_s if speeds is not None else None
        return TierFigures(
            read_bytes_per_second=pages.page_bytes / read_s if pages and read_s else None,
            prefill_tokens_per_second=self.mem_pool_host.page_size / compute_s
            if compute_s
            else None,
            bytes=store.allocated_bytes() if store is not None else None,
            quota_bytes=store.config.quota_bytes if store is not None else None,
            gate=gate.figures() if gate is not None else None,
            failures=self.miss_counts(),
        )

    def miss_counts(self) -> dict[str, int]:
        """Return failed calls by reason since the start."""
        return self._misses.counts()

    def close(self) -> None:
        """Close the store; later calls are misses. Idempotent.

        A call that the disk holds up is waited for no longer than a flush may take.
        """
        if self._store is not None:
            if self._hits.num_dropped:
                logger.info("hits above came too fast. hits_dropped=%d", self._hits.num_dropped)
            if self._gate is not None:
                logger.info("load gate closed. %s", self._gate.figures())
            if self._tuner is not None:
                self._tuner.stop()
            end_within(
                self._settings.write.flush_timeout_s,
                partial(self._or_miss, "close", None, self._store.close),
            )

    def _or_miss(self, call: str, miss: T, action: Callable[[], T]) -> T:
        """Return what `action` returns, or `miss` when the store failed. The boundary."""
        try:
            return action()
        except StoreError as error:
            self._misses.note(call, error)
            return miss

    def _ready(self) -> Store:
        if self._store is None or self._pages is None:
            raise ClosedError("the disk tier is not open")
        if self._unheld:
            raise UnavailableError(f"a pool cannot be kept on disk. pools={self._unheld}")
        if self._weights_are_changing:
            raise UnavailableError("pages of other weights may be in memory until it is flushed")
        return self._store

    def _path(self, keys: Sequence[str], extra_info: ExtraInfo) -> PagePath:
        return page_path(self._namespace, keys, extra_info)

    def _single_paths(self, keys: Sequence[str]) -> list[PagePath]:
        return [self._path([key], None) for key in keys]

    def _num_leading_single(self, keys: Sequence[str]) -> int:
        for i, path in enumerate(self._single_paths(keys)):
            if self._ready().probe(path) == 0:
                return i
        return len(keys)

    def _buffers(self, host_indices: torch.Tensor, num_pages: int) -> list[PageBuffer]:
        if self._pages is None:
            raise ClosedError("no host pool is registered")
        return self._pages.buffers(host_indices, num_pages)

    def _targets(self, keys: Sequence[str], targets: Any) -> list[torch.Tensor]:
        if targets is not None:
            return one_per_key(targets, keys)
        return [self.mem_pool_host.get_dummy_flat_data_page() for _ in keys]

    def _flat(self, tensor: Any) -> PageBuffer:
        return flat_page(tensor, self._pages.page_bytes if self._pages is not None else 0)

    def _figure(self, figures: TransferFigures, num_pages: int, started_s: float) -> None:
        if self._config.enable_storage_metrics and self._pages is not None:
            figures.add(
                num_pages=num_pages,
                num_bytes=num_pages * self._pages.page_bytes,
                seconds=time.perf_counter() - started_s,
            )


def _replica() -> int:
    """Return which plain data-parallel replica this is; SGLang's storage config does not say."""
    from sglang.srt.runtime_context import get_parallel

    try:
        return int(get_parallel().dp_rank or 0)
    except (AttributeError, RuntimeError, ValueError):
        # Nothing is published outside of a scheduler process.
        return 0
