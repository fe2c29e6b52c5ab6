"""Radix path to ordered bytes, and back. Pure.

A page's key spells its radix path, cut into groups of `GROUP_PAGES` pages:

    namespace(8) | anchor(8) | digest(8) x 1..64

A digest is the first 8 bytes of a page's chained hash. The anchor is the digest of the last page of
the group before, zero at the root. Within a group, byte order is radix pre-order: a prefix sorts
right before its extensions, siblings lie together, and a subtree is one range. Keys stay at or
below 528 bytes however long the path is.

A digest collision cannot mislead: the index value carries 8 more bytes of the chained hash.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, islice
from operator import itemgetter
from typing import NamedTuple

from sglang_lsm.pages import NAMESPACE_BYTES, NamespaceId, PageHash, PagePath

GROUP_PAGES = 64
DIGEST_BYTES = 8
HEAD_BYTES = NAMESPACE_BYTES + DIGEST_BYTES
MAX_KEY_BYTES = HEAD_BYTES + GROUP_PAGES * DIGEST_BYTES
ROOT_ANCHOR = bytes(DIGEST_BYTES)
_first_bytes: Callable[[PageHash], bytes] = itemgetter(slice(DIGEST_BYTES))
_tail_bytes: Callable[[PageHash], bytes] = itemgetter(slice(DIGEST_BYTES, 2 * DIGEST_BYTES))


class KeyParts(NamedTuple):
    """A key taken apart; `digests` are those of the group, the page's own last."""

    namespace: NamespaceId
    anchor: bytes
    digests: tuple[bytes, ...]


def encode(path: PagePath) -> Iterator[bytes]:
    """Yield the keys of `path.hashes[path.start:]`, parents first.

    Cost: grows with the keys taken, plus at most one group before them.
    """
    hashes, end = path.hashes, len(path.hashes)
    group = path.start - path.start % GROUP_PAGES
    for start in range(group, end, GROUP_PAGES):
        anchor = hashes[start - 1][:DIGEST_BYTES] if start else ROOT_ANCHOR
        # Lazily: a path of which nothing is stored is asked for its first page only.
        pages = map(hashes.__getitem__, range(start, min(start + GROUP_PAGES, end)))
        digests = map(_first_bytes, pages)
        keys = accumulate(digests, initial=path.namespace + anchor)
        # The head alone is no key, and pages before the call only place the others.
        yield from islice(keys, 1 + max(0, path.start - start), None)


def key_of(path: PagePath, index: int) -> bytes:
    """Return the key of page `index` of a path, counted from the root."""
    hashes, group = path.hashes, index - index % GROUP_PAGES
    anchor = hashes[group - 1][:DIGEST_BYTES] if group else ROOT_ANCHOR
    return b"".join((path.namespace, anchor, *map(_first_bytes, hashes[group : index + 1])))


def decode(key: bytes) -> KeyParts:
    """Take `key` apart. Inverse of `encode` as far as digests go.

    Raises:
        ValueError: not a key of this codec.
    """
    num_digests, rest = divmod(len(key) - HEAD_BYTES, DIGEST_BYTES)
    if rest or not 1 <= num_digests <= GROUP_PAGES:
        raise ValueError(f"not a page key. bytes={len(key)}")
    digests = tuple(key[i : i + DIGEST_BYTES] for i in range(HEAD_BYTES, len(key), DIGEST_BYTES))
    return KeyParts(NamespaceId(key[:NAMESPACE_BYTES]), key[NAMESPACE_BYTES:HEAD_BYTES], digests)


def parent(key: bytes) -> bytes | None:
    """Return the key one page up inside the same group, or None for a group's first page."""
    return key[:-DIGEST_BYTES] if len(key) > HEAD_BYTES + DIGEST_BYTES else None


def extends_group(key: bytes) -> bool:
    """Return whether the children of this page open a new group."""
    return len(key) == MAX_KEY_BYTES


def group_below(key: bytes) -> bytes:
    """Return the first bytes shared by all keys of the group that `key`'s children open."""
    return key[:NAMESPACE_BYTES] + key[-DIGEST_BYTES:]


def range_end(prefix: bytes) -> bytes | None:
    """Return the smallest bytes greater than every key that starts with `prefix`.

    None where there is no such bound (a prefix of 0xff only).
    """
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes([stripped[-1] + 1])


def hash_tail(page_hash: PageHash) -> bytes:
    """Return what is kept of a page's hash beside its digest: the 8 bytes after it.

    Together with the digest in the key, 128 bits decide that a page is the right one.
    """
    return _tail_bytes(page_hash)


def hash_tails(hashes: Iterable[PageHash]) -> list[bytes]:
    """Return `hash_tail` of each."""
    return list(map(_tail_bytes, hashes))
