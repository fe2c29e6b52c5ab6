"""The host pools of one rank: what each is called on disk, and where its pages lie in memory.

Pools beside the KV pool (sliding window, recurrent state, draft, indexer) have a namespace of their
own. Their pages go by the radix path of the KV page they belong to, and few of them need be there.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorageExtraInfo,
    PoolHitPolicy,
    PoolName,
    PoolTransfer,
    PoolTransferResult,
)
from sglang_lsm.errors import ConfigError
from sglang_lsm.pages import Fingerprint, NamespaceId, PagePath
from sglang_lsm.store import Store

from sglang_lsm_patch.arguments import page_path
from sglang_lsm_patch.host_pages import HostPages, host_pages
from sglang_lsm_patch.restorable import Need, restorable_lengths

ExtraInfo = HiCacheStorageExtraInfo | None

GEOMETRY = (
    "storage_format_tag", "start_layer", "end_layer", "layer_num", "head_num", "head_dim",
    "v_head_dim", "kv_cache_dim", "page_size", "num_mamba_layers", "conv_state_shapes",
    "temporal_state_shape", "conv_dtype", "temporal_dtype", "dtype", "size_per_token",
)  # fmt: skip
"""What host pools say about the bytes of a page; a pool without one of these lacks its name."""


@dataclass(frozen=True, slots=True)
class Pool:
    """One host pool that the tier holds pages of."""

    pages: HostPages
    fingerprint: Fingerprint

    @property
    def namespace(self) -> NamespaceId:
        """Of this pool's pages."""
        return self.fingerprint.namespace


class Pools:
    """The pools of one rank by SGLang's name, KV among them. Filled at start-up, then only read.

    Each call raises ConfigError for a pool that is not held or a transfer that does not fit it, and
    StoreError as the store does.
    """

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}

    def add(self, name: str, pool: Pool) -> None:
        """Hold the pages of a pool, instead of those it had by that name before."""
        self._pools[str(name)] = pool

    def all(self) -> list[Pool]:
        """Return every pool, KV first."""
        return list(self._pools.values())

    def namespaces(self) -> list[NamespaceId]:
        """Return the name of each pool's pages. Any thread."""
        return [pool.namespace for pool in self.all()]

    def sidecars(self) -> list[str]:
        """Return the names of the pools beside KV."""
        return [name for name in self._pools if name != PoolName.KV.value]

    def rename_model(self, model: str) -> None:
        """Give the pages of each pool another name: those of the model `model`."""
        for name, pool in self._pools.items():
            changed = dataclasses.replace(pool.fingerprint, model=model)
            self._pools[name] = dataclasses.replace(pool, fingerprint=changed)

    def exists(
        self,
        store: Store,
        keys: Sequence[str],
        transfers: Iterable[PoolTransfer],
        extra_info: ExtraInfo,
    ) -> PoolTransferResult:
        """Return the prefixes of `keys` that every pool can go on from.

        Cost: a probe of KV, then for each pool one lookup a page of what that found.
        """
        num_pages = store.probe(page_path(self._named(PoolName.KV).namespace, keys, extra_info))
        hits = {PoolName.KV: num_pages}
        lengths = []
        for transfer in transfers:
            # A second form of the KV pages: it has a say of its own and never shortens theirs.
            if transfer.hit_policy == PoolHitPolicy.BLOCK_GROUPS or not num_pages:
                continue
            pool = self._named(transfer.name)
            path = page_path(pool.namespace, keys[:num_pages], extra_info)
            lengths.append(_need(store, path, transfer).lengths())
            hits[transfer.name] = max(lengths[-1], default=0)
        restorable = restorable_lengths(num_pages, lengths)
        return PoolTransferResult(max(restorable, default=0), hits, restorable)

    def get(self, store: Store, transfer: PoolTransfer, extra_info: ExtraInfo) -> int:
        """Read a transfer's pages into their host slots; return the leading run that was found."""
        path, buffers = self._place(transfer, extra_info)
        return store.get_batch(path, buffers)

    def put(self, store: Store, transfer: PoolTransfer, extra_info: ExtraInfo) -> int:
        """Write a transfer's pages from their host slots; return how many there are."""
        path, buffers = self._place(transfer, extra_info)
        store.put_batch(path, buffers)
        return len(buffers)

    def _place(self, transfer: PoolTransfer, extra_info: ExtraInfo) -> tuple[PagePath, list[Any]]:
        pool = self._named(transfer.name)
        keys, slots = transfer.keys or [], transfer.host_indices
        if not isinstance(slots, torch.Tensor):
            raise ConfigError(f"a transfer without host slots. pool={transfer.name}")
        return page_path(pool.namespace, keys, extra_info), pool.pages.buffers(slots, len(keys))

    def _named(self, name: str) -> Pool:
        pool = self._pools.get(str(name))
        if pool is None:
            raise ConfigError(f"the disk tier does not hold this pool. pool={name}")
        return pool


def no_longer_than(found: PoolTransferResult, num_pages: int) -> PoolTransferResult:
    """Return what was found without the prefixes of more than `num_pages` pages."""
    lengths = [n for n in found.restorable_prefix_pages or () if n <= num_pages]
    return dataclasses.replace(
        found, kv_hit_pages=max(lengths, default=0), restorable_prefix_pages=lengths
    )


def sidecar_pool(name: str, host_pool: Any, kv: Fingerprint) -> Pool:
    """Return a pool beside KV as the tier holds it.

    Args:
        name: SGLang's, like `swa` or `mamba`.
        host_pool: SGLang's host pool.
        kv: the fingerprint of this rank's KV pages; what it says of model and ranks holds here too.

    Raises:
        ConfigError: the pool states no addresses for its pages, so they cannot be kept.
    """
    try:
        pages = host_pages(host_pool)
    except (NotImplementedError, ValueError) as error:
        raise ConfigError(f"{error}") from None
    facts = {
        attribute: str(value)
        for attribute in GEOMETRY
        if (value := getattr(host_pool, attribute, None)) is not None
    }
    described = " ".join(f"{attribute}={value}" for attribute, value in facts.items())
    fingerprint = dataclasses.replace(
        kv,
        pool=f"{name}:{type(host_pool).__name__}:{described} page_bytes={pages.page_bytes}",
        kv_dtype=str(host_pool.dtype).removeprefix("torch."),
        layout=host_pool.layout,
    )
    return Pool(pages, fingerprint)


def _need(store: Store, path: PagePath, transfer: PoolTransfer) -> Need:
    if transfer.hit_policy == PoolHitPolicy.TRAILING_PAGES:
        return Need(present=store.stored(path), window=max(1, len(transfer.keys or ())))
    num_hits = store.probe(path)
    return Need(present=[True] * num_hits, window=path.num_pages)
