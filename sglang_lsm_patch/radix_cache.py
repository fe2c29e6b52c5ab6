"""The radix cache of a server with a disk tier: SGLang's own, with complete radix paths on reads,
and an eviction path that writes what leaves the host tier.

Imported in scheduler processes only, when the cache is built. It translates; `eviction` decides.
"""

import logging
import time
from typing import Any

import torch
from sglang.srt.mem_cache.unified_cache.component_type import ComponentType
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

from sglang_lsm_patch.arguments import page_hashes
from sglang_lsm_patch.eviction import EvictionPath
from sglang_lsm_patch.eviction_figures import Meter
from sglang_lsm_patch.metrics import COUNTERS, TierMetrics
from sglang_lsm_patch.ranks import let_this_rank_write
from sglang_lsm_patch.recency import RequestsSeen
from sglang_lsm_patch.shutdown import BeforeSigterm
from sglang_lsm_patch.storage import LsmStorage

logger = logging.getLogger(__name__)

SIGTERM_TIMEOUT_S = 15.0
"""As long as SGLang itself waits for a scheduler to end."""


class LsmRadixCache(UnifiedRadixCache):  # type: ignore[misc]
    """Tells the eviction path what the tree does, and completes the paths of pages that are read.

    Under the write policy `evict` pages are not handed to SGLang's backup thread when they reach
    the host tier; `EvictionPath` writes them when they leave it. Under the other policies, and with
    a storage backend that is not ours, writing is upstream's.

    Upstream passes the hashes of a node's ancestors as `prefix_keys`, on writes starting from the
    parent of the written node, which is the whole path before it. On reads it starts from the
    deepest node that matched and so leaves out that node's own pages: a page would be looked for
    at another place than it was written to. Both reading calls are repaired here, where the tree is
    at hand; the storage backend cannot tell.

    Owned by the scheduler thread, as upstream. Each override has upstream's contract.
    """

    # Until the host tier is set up; upstream's constructor calls `_reset_full` before that.
    _eviction: EvictionPath | None = None
    _weights_are_changing = False
    _may_hold_old_pages = False
    """Pages of other weights than the model's may be in memory, so nothing is read or written."""
    _has_other_weights = False
    """Than those at the model's path, whose name stored pages have at first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Build upstream's cache."""
        self._requests, self._meter = RequestsSeen(), Meter()
        self._prefilled: tuple[int, float] | None = None
        self._metrics: TierMetrics | None = None
        self._sigterm = BeforeSigterm(self._stop_eviction, timeout_s=SIGTERM_TIMEOUT_S)
        super().__init__(*args, **kwargs)

    # Life of the host and disk tiers.

    def init_hicache(self, server_args: Any, params: Any) -> None:
        """Set up the host and disk tiers, then what writes between them."""
        super().init_hicache(server_args, params)
        self._start_storage()
        self._sigterm.install()

    def attach_storage_backend(self, *args: Any, **kwargs: Any) -> tuple[bool, str]:
        """Attach a disk tier at runtime. What the host tier holds already is not written."""
        before = self._lsm_storage()
        result = super().attach_storage_backend(*args, **kwargs)
        backend = self._lsm_storage()
        if backend is not None and backend is not before:
            self._take_over(backend)
        if self._eviction is None:
            self._start_storage()
        return result  # type: ignore[no-any-return]

    def _take_over(self, backend: LsmStorage) -> None:
        if self._metrics is not None:
            self._metrics.restart(*COUNTERS)
        if self._has_other_weights:
            backend.weights_change()
            if not self._may_hold_old_pages:
                backend.weights_changed()

    def detach_storage_backend(self) -> tuple[bool, str]:
        """Write what is due, then detach the disk tier; it goes on where that fails."""
        self._stop_eviction()
        result = super().detach_storage_backend()
        self._start_eviction()
        return result  # type: ignore[no-any-return]

    def clear_storage_backend(self) -> bool:
        """Forget the disk tier's pages; those in the host tier are written again."""
        is_cleared = super().clear_storage_backend()
        if is_cleared and self._eviction is not None:
            self._eviction.disk_emptied()
        return bool(is_cleared)

    def release_host_resources(self) -> None:
        """Write what is due before the host tier's memory goes."""
        self._stop_eviction()
        super().release_host_resources()

    def shutdown(self) -> None:
        """Write what is due, then detach the disk tier. Runs at exit."""
        self._stop_eviction()
        super().shutdown()

    def weights_change(self) -> None:
        """Write what is due under the old weights' name, if it lasts; then keep and find nothing.

        Called before SGLang changes weights, once or several times until it is done.
        """
        self._stop_eviction()
        self._weights_are_changing = self._may_hold_old_pages = self._has_other_weights = True
        backend = self._lsm_storage()
        if backend is not None:
            backend.weights_change()

    def weights_changed(self, *, is_idle: bool) -> None:
        """Go on under a new name, at once or when SGLang has emptied the device and host tiers.

        It need not empty them after an update, and refuses while requests are running.

        Args:
            is_idle: no request is running, and no page is on its way between tiers.
        """
        self._weights_are_changing = False
        if not self._may_hold_old_pages:
            return
        if is_idle and self._is_empty():
            self._go_on_with_new_weights()
        elif self._lsm_storage() is not None:
            logger.warning("kv storage is off until /flush_cache: memory holds old weights' pages.")

    def _is_empty(self) -> bool:
        """Return whether neither device nor host memory holds a page."""
        if self.cache_controller is None:
            return False
        host = self.cache_controller.mem_pool_host
        return not any(self.total_size()) and host.available_size() == host.size

    def _go_on_with_new_weights(self) -> None:
        self._may_hold_old_pages = False
        # SGLang's book of what is stored, kept without a host tier, knows pages by their tokens.
        self.storage_existence_cache.clear()
        backend = self._lsm_storage()
        if backend is not None:
            backend.weights_changed()
            self._start_eviction()

    def _reset_full(self) -> None:
        if self._eviction is not None:
            with self._sigterm.postponed():
                self._eviction.empty()
        super()._reset_full()
        # By now SGLang has joined its storage threads and emptied their queues.
        if self._may_hold_old_pages and not self._weights_are_changing:
            self._go_on_with_new_weights()

    def note_prefills(self, *, num_tokens: int, seconds: float) -> None:
        """Take in SGLang's totals of tokens that were computed, and of the time that took."""
        before, self._prefilled = self._prefilled, (num_tokens, seconds)
        backend = self._lsm_storage()
        if backend is not None and before is not None and num_tokens > before[0]:
            backend.note_prefill(num_tokens=num_tokens - before[0], seconds=seconds - before[1])

    def _start_storage(self) -> None:
        backend = self._lsm_storage()
        if backend is not None:
            backend.waits_for_loads(self._wait_limit_s)
        self._start_eviction()
        if self.enable_storage_metrics:
            # Making them takes milliseconds, which the first request would wait for.
            self._tell_metrics(self._eviction)

    def _wait_limit_s(self, num_tokens: int) -> float:
        """Return how long SGLang waits for a load. Thread-safe."""
        if self.prefetch_stop_policy != "timeout":
            return float("inf")
        num_pages = num_tokens // self.page_size
        return float(self.prefetch_timeout_base + num_pages * self.prefetch_timeout_per_page)

    def _start_eviction(self) -> None:
        backend = self._lsm_storage()
        if backend is not None:
            let_this_rank_write(self.cache_controller)
        target = None
        if backend is not None and self._writes_on_eviction() and not self._may_hold_old_pages:
            allocator = self.token_to_kv_pool_allocator
            # Else pages do not start at multiples of their size, and cannot be gathered whole.
            is_paged = allocator.page_size == self.page_size
            target = backend.eviction_target(
                allocator.get_kvcache() if is_paged else None,
                lambda: getattr(self.cache_controller, "write_fence_stream", None),
            )
        if target is not None:
            self._eviction = EvictionPath(target, clock=time.monotonic, meter=self._meter)

    def _stop_eviction(self) -> None:
        with self._sigterm.postponed():
            eviction, self._eviction = self._eviction, None
            self._log_time()
            if eviction is not None:
                backend = self._lsm_storage()
                # Nobody would find it.
                is_in_vain = backend is not None and backend.name_ends_with_process
                eviction.close(flush=not is_in_vain)
                if self._metrics is not None:
                    self._tell_metrics(eviction)
                    # The next path counts from 0.
                    self._metrics.restart("write_pages")

    def _log_time(self) -> None:
        meter, self._meter = self._meter, Meter()
        times_s = [
            laps_s[len(laps_s) * percent // 100]
            for laps_s in (meter.laps_s(), meter.cpu_laps_s())
            for percent in (50, 99)
            if laps_s
        ]
        if times_s:
            logger.info(
                "kv storage time on the scheduler thread. requests=%d p50_ms=%.3f p99_ms=%.3f "
                "cpu_p50_ms=%.3f cpu_p99_ms=%.3f",
                len(meter.laps_s()),
                *(1e3 * time_s for time_s in times_s),
            )

    def _lsm_storage(self) -> LsmStorage | None:
        backend = getattr(self.cache_controller, "storage_backend", None)
        # SGLang's fault injector wraps the backend.
        backend = getattr(backend, "_backend", backend)
        return backend if isinstance(backend, LsmStorage) else None

    def _writes_on_eviction(self) -> bool:
        backend = self._lsm_storage()
        return backend is not None and backend.write_policy == "evict"

    # What happens to pages.

    def write_backup_storage(self, node_id: int) -> None:
        """Take note of pages that reached the host tier; or hand them to SGLang's backup thread."""
        if self._lsm_storage() is not None and self._may_hold_old_pages:
            return
        if not self._writes_on_eviction():
            super().write_backup_storage(node_id)
            return
        if self._eviction is None:
            return
        with self._meter:
            spec = self.tree_core.build_storage_backup_spec(node_id, True)
            if spec is not None:
                self._eviction.computed(spec.host_value, spec.hash_value, spec.prefix_keys or ())

    def _handle_prefetch_result(self, operation: Any) -> None:
        if self._eviction is None:
            super()._handle_prefetch_result(operation)
            return
        started = self.ongoing_prefetch[operation.handle]
        num_tokens, page_size = operation.completed_tokens, self.page_size
        with self._meter:
            path = self._path_of(started.anchor_node_id)
        super()._handle_prefetch_result(operation)
        num_loaded = self.prefetch_loaded_tokens_by_reqid.get(operation.handle, 0)
        first = num_tokens - num_loaded
        keys = operation.hash_value
        self._eviction.loaded(
            started.host_indices[first:num_tokens],
            keys[first // page_size : num_tokens // page_size],
            [*path, *keys[: first // page_size]],
        )

    def _match_tree(self, params: Any) -> Any:
        # Not `match_prefix`: a streaming session may answer that with a node outside of the tree.
        result = super()._match_tree(params)
        if params.req is not None and self._requests.is_first(params.req.rid):
            self._meter.lap()
            with self._meter:
                self._note_hit(result.best_match_node)
        return result

    def _note_hit(self, node_id: int) -> None:
        """Tell the tiers below which pages a request found in device and host."""
        backend = self._lsm_storage()
        last = self.tree_core.get_last_hash_value(node_id) if backend is not None else None
        if backend is None or last is None:
            return
        path = self._eviction.hit(last) if self._eviction is not None else ()
        if not path:
            # Not in the host tier, or nobody keeps book of it; so the tree is asked.
            keys = self._path_of(node_id)
            backend.note_hit(lambda: page_hashes(keys))
        else:
            backend.note_hit(lambda: path)

    def _evict_device_leaf(self, node_id: int, tracker: dict[ComponentType, int]) -> Any:
        # Write-back copies the victim to the host tier after this call, and frees it then.
        if self._eviction is not None and not self.is_write_back:
            with self._meter:
                if not self.tree_core.is_backuped(node_id):
                    slots, _ = self.tree_core.build_backup_spec(node_id)
                    keys = self.tree_core.get_hash_values(node_id)
                    prefix = self.tree_core.get_prefix_hash_values(node_id)
                    self._eviction.leaving_device(slots, keys, prefix)
        return super()._evict_device_leaf(node_id, tracker)

    def _drain_host_frees(self, host_frees: dict[ComponentType, list[torch.Tensor]]) -> None:
        if self._eviction is not None:
            self._eviction.giving_up(host_frees.get(ComponentType.FULL, ()))
        super()._drain_host_frees(host_frees)

    def check_hicache_events(self) -> None:
        """Poll the copies under way; then write what is due."""
        super().check_hicache_events()
        if self.enable_storage_metrics and (self._metrics is None or self._metrics.is_due()):
            with self._meter:
                self._tell_metrics(self._eviction)
        if self._eviction is None:
            return
        num_stored = self._eviction.step(self.cache_controller.mem_pool_host.available_size())
        if num_stored and self.enable_storage_metrics:
            self.storage_metrics_collector.log_backuped_tokens(num_stored * self.page_size)

    def _tell_metrics(self, eviction: EvictionPath | None) -> None:
        backend, collector = self._lsm_storage(), self.storage_metrics_collector
        if backend is None or collector is None:
            return
        if self._metrics is None:
            self._metrics = TierMetrics(collector.labels, time.monotonic)
        written = eviction.figures() if eviction is not None else None
        self._metrics.tell(backend.figures(), written)

    # Complete paths on reads.

    def prefetch_from_storage(
        self,
        request: Any,
        last_host_node_id: int,
        new_input_tokens: Any,
        last_hash: str | None = None,
        prefix_keys: list[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> bool | None:
        """Start reading the pages after `last_host_node_id`. Contract: upstream's."""
        complete = self._complete_prefix(last_host_node_id, prefix_keys)
        return super().prefetch_from_storage(  # type: ignore[no-any-return]
            request, last_host_node_id, new_input_tokens, last_hash, complete, *args, **kwargs
        )

    def query_storage_hit_length(
        self,
        last_host_node_id: int,
        new_input_tokens: Any,
        last_hash: str | None = None,
        prefix_keys: list[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> int:
        """Return how many tokens after `last_host_node_id` are stored. Contract: upstream's."""
        complete = self._complete_prefix(last_host_node_id, prefix_keys)
        return super().query_storage_hit_length(  # type: ignore[no-any-return]
            last_host_node_id, new_input_tokens, last_hash, complete, *args, **kwargs
        )

    def _trim_buffer_prefetch_full_head(
        self, request: Any, info: Any, operation: Any, full_match_len: int, hit_tokens: int
    ) -> tuple[Any, int, int]:
        # Without a host tier pages may reach the device between the query and the read. Upstream
        # leaves them out of the read, and out of the path as well.
        keys = list(operation.hash_value)
        result = super()._trim_buffer_prefetch_full_head(
            request, info, operation, full_match_len, hit_tokens
        )
        num_trimmed = len(keys) - len(operation.hash_value)
        if num_trimmed:
            operation.prefix_keys = [*(operation.prefix_keys or ()), *keys[:num_trimmed]]
        return result  # type: ignore[no-any-return]

    def _complete_prefix(self, node_id: int, prefix_keys: list[str] | None) -> list[str] | None:
        """Return the hashes from the root up to and including the node's own.

        A list even at the root: upstream takes None for "unknown" and then stops extending it from
        one batch of 128 pages to the next.
        """
        if not self.hicache_storage_pass_prefix_keys:
            return prefix_keys
        with self._meter:
            return self._path_of(node_id)

    def _path_of(self, node_id: int) -> list[str]:
        ancestors = self.tree_core.get_prefix_hash_values(node_id)
        return [*ancestors, *self.tree_core.get_hash_values(node_id)]
