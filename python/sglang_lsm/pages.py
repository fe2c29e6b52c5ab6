"""Value types: what a page is called, where it lies, and the memory it travels in.

A page is `page_size` tokens of KV for all layers of one rank. A radix path names it: the chained
hashes of all pages from the root, each hash covering everything before it, so that equal hashes
mean equal token prefixes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, NewType, TypeAlias

NamespaceId = NewType("NamespaceId", bytes)
"""First 8 bytes of the SHA-256 of a fingerprint; every key of the index starts with one."""

PageHash: TypeAlias = bytes
"""32 bytes: SHA-256 over the hash of the page before and this page's token ids (SGLang's chain)."""

PageBuffer: TypeAlias = Sequence[memoryview]
"""The memory of one page: its pieces in storage order (for MHA: K, then V), flat, format 'B'.

Borrowed for the duration of a call; writable where the call reads from disk.
"""

NAMESPACE_BYTES = 8
HASH_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Everything beside the tokens that decides the bytes of a page.

    Two servers may share pages if and only if their fingerprints are equal. Not in it: the salt
    and LoRA of a request, which SGLang folds into the page hashes. Of a LoRA that is the name and
    the path, so the weights that lie there belong to `model`.
    """

    model: str
    """Digest of the weights' identity, adapters included; the served name alone would survive a
    change of weights."""
    kv_dtype: str
    layout: str
    """Byte order inside a page, by SGLang's name: `page_first`, `page_first_direct`, ..."""
    page_size: int
    num_layers: int
    num_kv_heads: int
    """Heads of this rank."""
    head_dim: int
    v_head_dim: int
    tp_rank: int = 0
    tp_size: int = 1
    pp_rank: int = 0
    pp_size: int = 1
    cp_rank: int = 0
    cp_size: int = 1
    pool: str = "kv"
    """SGLang's pool name; hybrid models keep further pools beside the KV pool."""
    format_version: int = 1

    def to_json(self) -> str:
        """Return the canonical form: sorted keys, no spaces. This is what is hashed and stored."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def namespace(self) -> NamespaceId:
        """The 8 bytes that stand for this fingerprint in keys."""
        return NamespaceId(hashlib.sha256(self.to_json().encode()).digest()[:NAMESPACE_BYTES])


@dataclass(frozen=True, slots=True)
class PagePath:
    """A radix path from the root, and the part of it that a call is about.

    `hashes[:start]` only place the pages; the call acts on `hashes[start:]`, parents first.
    """

    namespace: NamespaceId
    hashes: Sequence[PageHash]
    start: int = 0

    @property
    def num_pages(self) -> int:
        """How many pages the call is about."""
        return len(self.hashes) - self.start


class StoredPage(NamedTuple):
    """A page as a listing shows it."""

    key: bytes
    """See `keycodec`: it spells the radix path."""
    num_bytes: int


class Location(NamedTuple):
    """Where the bytes of one stored page lie, and how to know that they are the right ones.

    A tuple, because every page of every call makes one: a frozen dataclass takes thrice as long.
    """

    segment_id: int
    offset: int
    """From the start of the segment, a multiple of 4096."""
    length: int
    """What the page takes: its bytes, padding not counted; encoded, whole blocks."""
    checksum: int
    """xxh3_64 of the page as it is handed out, seeded with its key."""
    hash_tail: bytes
    """Bytes 8 to 16 of the page's chained hash: a collision of digests becomes a miss."""
    flags: int = 0
    """0: the bytes are the page. Otherwise see `format.ENCODED`."""
