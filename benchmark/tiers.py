"""Flags of a server with a disk tier of a given size, for benchmarks that fill it."""

import json
from collections.abc import Mapping
from pathlib import Path

from benchmark.serving import has_gpu

_HICACHE = (
    "--enable-hierarchical-cache",
    *("--hicache-io-backend", "kernel" if has_gpu() else "direct"),
    *("--hicache-mem-layout", "page_first" if has_gpu() else "page_first_direct"),
)
_BLOCK_BYTES = 4096
_MIN_SEGMENT_BYTES = 1 << 20
_SEGMENTS = 16
_PREFETCH_THRESHOLD = 64
"""Fewest missing tokens worth a prefetch. SGLang's 256 belong to prompts of many thousand tokens;
those of these benchmarks are scaled down, and so is this."""
HOST_RATIO = 2.0
"""Host pool over device pool, SGLang's own default. The host holds a copy of what the device holds,
and SGLang reads from disk only into what is free beside those copies, at most half of the pool at
once: with a host pool as small as the device's every disk tier's reads are cut short."""
POLICIES = {"lsm": "through", "lsm, selective": "selective", "lsm, evict": "evict"}
"""Our rows by the write policy."""
BACKENDS = ("recompute", "host", "file", "file tuned", *POLICIES, "sim")
LMCACHE_LEFT_OUT = (
    "its connector for SGLang does not import without CUDA; its file client is a rival in "
    "`bench engine`"
)
"""Why no server here runs with it."""
# Nothing is moved and nothing waited for.
_NO_IO = {"interface_v1": 1, "sim_write_gbps": 0, "sim_op_latency_us": 0}


def pool_flags(
    page_size: int, *, pool_tokens: int, host_ratio: float = HOST_RATIO
) -> tuple[str, ...]:
    """Return the flags of the device and host pools; the host's is `host_ratio` of the device's."""
    return (
        *("--page-size", str(page_size), "--max-total-tokens", str(pool_tokens)),
        *(() if has_gpu() else ("--dtype", "float32")),
        *("--hicache-ratio", str(host_ratio)),
    )


def disk_flags(
    backend: str, directory: Path, *, budget_bytes: int, wait_complete: bool = False
) -> tuple[str, ...]:
    """Return the flags of one backend.

    `recompute` caches nothing, `host` has no disk tier, `file` is SGLang's as it comes and without
    a bound, `file tuned` has its LRU evictor and its metadata cache, without which every page is
    looked up in the directory, and `lsm` is ours, which like those writes a page once it is
    computed; the other two of POLICIES write less. `sim` is SGLang's simulator of a storage that
    takes no time and holds no bytes: what no store could beat. All but `file` and `sim` keep to
    `budget_bytes`.

    Args:
        backend: one of BACKENDS.
        directory: what `lsm` may fill.
        budget_bytes: the most on disk.
        wait_complete: read all that was found, instead of SGLang's default cut-off.
    """
    if backend == "recompute":
        return ("--disable-radix-cache",)
    if backend == "host":
        return _HICACHE
    waiting = ("--hicache-storage-prefetch-policy", "wait_complete") if wait_complete else ()
    extra: dict[str, object] = {"prefetch_threshold": _PREFETCH_THRESHOLD}
    if backend == "file tuned":
        extra |= {
            "max_size": str(budget_bytes),
            "enable_metadata_cache": True,
            "metadata_ttl": 3600,
        }
    if backend == "sim":
        extra |= _NO_IO
    shared = (*waiting, "--hicache-storage-backend-extra-config", json.dumps(extra))
    if backend not in POLICIES:
        return (*_HICACHE, "--hicache-storage-backend", backend.split()[0], *shared)
    # The newest segment is preallocated whole; of a small budget it must be a small part.
    segment_bytes = min(256 << 20, budget_bytes // _SEGMENTS // _BLOCK_BYTES * _BLOCK_BYTES)
    log = {"segment_bytes": max(_MIN_SEGMENT_BYTES, segment_bytes)}
    return (
        *("--kv-storage", "lsm", "--kv-storage-path", str(directory)),
        *("--kv-storage-size", str(budget_bytes), "--kv-storage-write", POLICIES[backend]),
        *("--kv-storage-config", json.dumps({"log": log})),
        *shared,
    )


def disk_environment(directory: Path) -> Mapping[str, str]:
    """Return what has to be in the environment: the file backend has no flag for its folder."""
    return {"SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR": str(directory)}
