"""Pages and paths whose right bytes can be told from their names alone."""

import hashlib
from collections.abc import Iterable, Sequence

from sglang_lsm.config import MIB, LogConfig, StoreConfig
from sglang_lsm.pages import Fingerprint, NamespaceId, PageBuffer, PageHash, PagePath

SEGMENT_BYTES = MIB
_HIGH_BYTES = bytes(0x3C | i & 3 for i in range(256))


def chain(tokens: Iterable[object], parent: PageHash = bytes(32)) -> list[PageHash]:
    """Return the chained hashes of a path that has one page for each of `tokens`."""
    hashes = []
    for token in tokens:
        parent = hashlib.sha256(parent + repr(token).encode()).digest()
        hashes.append(parent)
    return hashes


def path_of(namespace: NamespaceId, tokens: Iterable[object], start: int = 0) -> PagePath:
    """Return the radix path spelled by `tokens`."""
    return PagePath(namespace, chain(tokens), start)


def content_of(namespace: NamespaceId, page_hash: PageHash, num_bytes: int) -> bytes:
    """Return what a page with this name holds: different for every name, and as KV does, its
    numbers of two bytes have much the same high byte.
    """
    content = bytearray(hashlib.shake_128(namespace + page_hash).digest(num_bytes))
    content[1::2] = content[1::2].translate(_HIGH_BYTES)
    return bytes(content)


def pages_of(path: PagePath, pieces: Sequence[int]) -> list[PageBuffer]:
    """Return the pages of the call, each cut into pieces of the sizes given."""
    return [
        cut(memoryview(content_of(path.namespace, page_hash, sum(pieces))), pieces)
        for page_hash in path.hashes[path.start :]
    ]


def empty_pages(num_pages: int, pieces: Sequence[int]) -> list[PageBuffer]:
    """Return memory to read into, filled with a pattern that no page has."""
    return [cut(memoryview(bytearray(b"\xa5" * sum(pieces))), pieces) for _ in range(num_pages)]


def cut(memory: memoryview, pieces: Sequence[int]) -> list[memoryview]:
    """Cut `memory` into neighbouring pieces."""
    ends = [sum(pieces[: i + 1]) for i in range(len(pieces))]
    return [memory[end - size : end] for end, size in zip(ends, pieces, strict=True)]


def joined(page: PageBuffer) -> bytes:
    """Return the bytes of a page in one piece."""
    return b"".join(page)


def fingerprint(model: str = "tiny", **changes: object) -> Fingerprint:
    """Return a fingerprint that differs where asked."""
    facts: dict[str, object] = {
        "model": model, "kv_dtype": "bfloat16", "layout": "page_first", "page_size": 64,
        "num_layers": 4, "num_kv_heads": 2, "head_dim": 64, "v_head_dim": 64,
    }  # fmt: skip
    return Fingerprint(**(facts | changes))  # type: ignore[arg-type]


def small_config(num_segments: int = 4, **log_changes: object) -> StoreConfig:
    """Return the settings of a store that fills up after a few megabytes."""
    log = LogConfig(**({"segment_bytes": SEGMENT_BYTES, "reader_threads": 2} | log_changes))  # type: ignore[arg-type]
    return StoreConfig(quota_bytes=num_segments * SEGMENT_BYTES, log=log)
