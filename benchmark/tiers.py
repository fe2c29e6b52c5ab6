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


def pool_flags(page_size: int, *, pool_tokens: int, host_ratio: float = 1.01) -> tuple[str, ...]:
    """Return the flags of the device and host pools; the host's is `host_ratio` of the device's."""
    return (
        *("--page-size", str(page_size), "--max-total-tokens", str(pool_tokens)),
        *(() if has_gpu() else ("--dtype", "float32")),
        *("--hicache-ratio", str(host_ratio)),
    )


def disk_flags(backend: str, directory: Path, *, budget_bytes: int) -> tuple[str, ...]:
    """Return the flags of `host` (no disk tier), `file` or `lsm`, bounded by `budget_bytes`.

    Both write a page once it is computed. `file` gets its LRU evictor and its metadata cache,
    without which it has no bound and looks every page up in the directory.
    """
    if backend == "host":
        return _HICACHE
    if backend == "file":
        settings = {
            "max_size": str(budget_bytes),
            "enable_metadata_cache": True,
            "metadata_ttl": 3600,
            "prefetch_threshold": _PREFETCH_THRESHOLD,
        }
        extra = ("--hicache-storage-backend-extra-config", json.dumps(settings))
        return (*_HICACHE, "--hicache-storage-backend", "file", *extra)
    # The newest segment is preallocated whole; of a small budget it must be a small part.
    segment_bytes = min(256 << 20, budget_bytes // _SEGMENTS // _BLOCK_BYTES * _BLOCK_BYTES)
    log = {"segment_bytes": max(_MIN_SEGMENT_BYTES, segment_bytes)}
    return (
        *("--kv-storage", "lsm", "--kv-storage-path", str(directory)),
        *("--kv-storage-size", str(budget_bytes), "--kv-storage-write", "through"),
        *("--kv-storage-config", json.dumps({"log": log})),
        "--hicache-storage-backend-extra-config",
        json.dumps({"prefetch_threshold": _PREFETCH_THRESHOLD}),
    )


def disk_environment(directory: Path) -> Mapping[str, str]:
    """Return what has to be in the environment: the file backend has no flag for its folder."""
    return {"SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR": str(directory)}
