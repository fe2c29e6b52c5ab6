"""Ways to index pages, behind one interface: key encodings over RocksDB, and other maps."""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from sglang_lsm import keycodec
from sglang_lsm.config import IndexConfig
from sglang_lsm.format import encode_index_value
from sglang_lsm.index.rocks import RocksIndex
from sglang_lsm.lookup import num_current, num_present
from sglang_lsm.pages import Location, PageHash, PagePath

from benchmark.rivals.disk import allocated_bytes
from benchmark.rivals.interface import RivalUnavailableError

_FLAT_HASH_BYTES = 16  # enough that no second check of the hash is needed
_GROUP_KEY = struct.Struct(">8s8sH8s")  # namespace, anchor, position in the group, digest


class PathIndex(Protocol):
    """Where the pages of a path lie. Owned by one thread."""

    def insert(self, path: PagePath, locations: Sequence[Location]) -> None:
        """Note the pages `path` is about as one batch, surviving the death of the process."""

    def probe(self, path: PagePath) -> int:
        """Return how many leading pages of the call are stored."""

    def purge(self, root: PagePath, below: Sequence[PageHash]) -> None:
        """Forget the subtree at the last page of `root`.

        `below` are the hashes of all pages of the subtree, for maps that have no order: a server
        would have to keep a tree to know them, which is not charged to them.
        """

    def compact(self) -> None:
        """Bring the index into its best shape for reads."""

    def disk_bytes(self) -> int:
        """Bytes of disk held."""

    def close(self) -> None:
        """Flush and close."""


class _Segments:
    """All that can be named are there."""

    def has(self, segment_id: int) -> bool:
        """See `lookup.Segments`."""
        return True


_ALL_SEGMENTS = _Segments()


class RadixIndex:
    """Our keys, our index, and the walk that the store makes."""

    def __init__(self, directory: Path, config: IndexConfig) -> None:
        self._directory = directory
        self._index = RocksIndex(directory / "index", config)

    def insert(self, path: PagePath, locations: Sequence[Location]) -> None:
        """One WriteBatch."""
        self._index.put(
            list(zip(self._keys(path), map(encode_index_value, locations), strict=True))
        )

    def probe(self, path: PagePath) -> int:
        """Walk the path and look at the segment of each page, as the store does."""
        return num_present(_ALL_SEGMENTS, self._index.walk_path(path))

    def purge(self, root: PagePath, below: Sequence[PageHash]) -> None:
        """Delete the range of each group of the subtree; nothing but the root's key is needed."""
        last = PagePath(root.namespace, root.hashes, len(root.hashes) - 1)
        prefixes = list(keycodec.encode(last))
        while prefixes:
            prefix = prefixes.pop()
            keys = [key for key, _ in self._index.scan(prefix, keycodec.range_end(prefix))]
            prefixes += [keycodec.group_below(key) for key in keys if keycodec.extends_group(key)]
            self._index.delete(keys)

    def compact(self) -> None:
        """Merge all tables."""
        self._index.flush()
        self._index.compact()

    def disk_bytes(self) -> int:
        """Blocks of all files, write-ahead log included."""
        return allocated_bytes(self._directory)

    def close(self) -> None:
        """Close the database."""
        self._index.close()

    def _keys(self, path: PagePath) -> Iterator[bytes]:
        return keycodec.encode(path)


class GroupOrderedIndex(RadixIndex):
    """Keys `anchor | position | digest`: short, pages of one depth together, no subtree ranges."""

    def probe(self, path: PagePath) -> int:
        """Walk the path's keys; compare the stored part of each hash."""
        return num_current(_ALL_SEGMENTS, path, self._index.walk(self._keys(path)))

    def purge(self, root: PagePath, below: Sequence[PageHash]) -> None:
        """Not possible from the root alone, nor from hashes without their anchors."""
        raise RivalUnavailableError("a subtree is no range of these keys")

    def _keys(self, path: PagePath) -> Iterator[bytes]:
        hashes = path.hashes
        for i in range(path.start, len(hashes)):
            group = i - i % keycodec.GROUP_PAGES
            anchor = hashes[group - 1][: keycodec.DIGEST_BYTES] if group else keycodec.ROOT_ANCHOR
            yield _GROUP_KEY.pack(path.namespace, anchor, i - group, hashes[i][:8])


class FlatIndex:
    """Keys are the namespace and 16 bytes of the page hash: no order, any two pages far apart.

    Args:
        binary_search: find the end of the stored run by halving, which is right only while every
            ancestor of a stored page is stored, and yields no locations; else one MultiGet of all.
    """

    def __init__(self, directory: Path, config: IndexConfig, *, binary_search: bool) -> None:
        self._directory = directory
        self._binary_search = binary_search
        self._index = RocksIndex(directory / "index", config)

    def insert(self, path: PagePath, locations: Sequence[Location]) -> None:
        """One WriteBatch."""
        self._index.put(list(zip(_flat_keys(path), map(_flat_value, locations), strict=True)))

    def probe(self, path: PagePath) -> int:
        """Look the first page up alone, so that an unknown path costs one lookup."""
        if self._index.get(list(islice(_flat_keys(path), 1)))[0] is None:
            return 0
        keys = list(_flat_keys(path))
        if not self._binary_search:
            values = self._index.get(keys)
            return next((i for i, value in enumerate(values) if value is None), len(values))
        low, high = 1, len(keys)
        while low < high:
            middle = (low + high + 1) // 2
            if self._index.get(keys[middle - 1 : middle])[0] is None:
                high = middle - 1
            else:
                low = middle
        return low

    def purge(self, root: PagePath, below: Sequence[PageHash]) -> None:
        """Delete page by page."""
        self._index.delete([root.namespace + page[:_FLAT_HASH_BYTES] for page in below])

    def compact(self) -> None:
        """Merge all tables."""
        self._index.flush()
        self._index.compact()

    def disk_bytes(self) -> int:
        """Blocks of all files, write-ahead log included."""
        return allocated_bytes(self._directory)

    def close(self) -> None:
        """Close the database."""
        self._index.close()


class DictIndex:
    """A dict in memory, lost with the process: the fastest probe there can be from Python."""

    def __init__(self, directory: Path, config: IndexConfig) -> None:
        self._entries: dict[bytes, bytes] = {}

    def insert(self, path: PagePath, locations: Sequence[Location]) -> None:
        """Note the pages."""
        self._entries.update(zip(_flat_keys(path), map(_flat_value, locations), strict=True))

    def probe(self, path: PagePath) -> int:
        """Count the leading run."""
        entries = self._entries
        for i, key in enumerate(_flat_keys(path)):
            if key not in entries:
                return i
        return path.num_pages

    def purge(self, root: PagePath, below: Sequence[PageHash]) -> None:
        """Delete page by page."""
        for page in below:
            self._entries.pop(root.namespace + page[:_FLAT_HASH_BYTES], None)

    def compact(self) -> None:
        """Do nothing: it has one shape."""

    def disk_bytes(self) -> int:
        """Nothing is on the disk."""
        return 0

    def close(self) -> None:
        """Forget all."""
        self._entries.clear()


class LmdbIndex:
    """LMDB, a copy-on-write B-tree, with flat keys: its keys end at 511 bytes, ours go beyond."""

    def __init__(self, directory: Path, config: IndexConfig) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise RivalUnavailableError(f"lmdb does not import: {error}") from error
        self._directory = directory
        # A write survives kill -9 in the page cache, as a WAL without sync does.
        self._environment = lmdb.open(
            str(directory / "lmdb"), map_size=16 << 30, sync=False, metasync=False
        )

    def insert(self, path: PagePath, locations: Sequence[Location]) -> None:
        """One transaction."""
        with self._environment.begin(write=True) as transaction:
            for key, location in zip(_flat_keys(path), locations, strict=True):
                transaction.put(key, _flat_value(location))

    def probe(self, path: PagePath) -> int:
        """Count the leading run."""
        with self._environment.begin(buffers=True) as transaction:
            for i, key in enumerate(_flat_keys(path)):
                if transaction.get(key) is None:
                    return i
        return path.num_pages

    def purge(self, root: PagePath, below: Sequence[PageHash]) -> None:
        """Delete page by page, in one transaction."""
        with self._environment.begin(write=True) as transaction:
            for page in below:
                transaction.delete(root.namespace + page[:_FLAT_HASH_BYTES])

    def compact(self) -> None:
        """Do nothing: it has one shape."""

    def disk_bytes(self) -> int:
        """Blocks of the map."""
        return allocated_bytes(self._directory)

    def close(self) -> None:
        """Unmap."""
        self._environment.close()


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """A row of the tables."""

    name: str
    about: str
    open: Callable[[Path, IndexConfig], PathIndex]
    has_cache: bool = True
    """Whether the block cache's size matters to it."""
    survives: bool = True
    """Whether it can be opened again."""


_SPECS = (
    IndexSpec("radix_path", "our keys, one walk", RadixIndex),
    IndexSpec("group_ordered", "anchor, position, digest; one walk", GroupOrderedIndex),
    IndexSpec(
        "flat_hash",
        "page hash, one MultiGet of all pages asked",
        lambda directory, config: FlatIndex(directory, config, binary_search=False),
    ),
    IndexSpec(
        "flat_hash_halving",
        "page hash, binary search, no locations",
        lambda directory, config: FlatIndex(directory, config, binary_search=True),
    ),
    IndexSpec("lmdb", "page hash in LMDB", LmdbIndex, has_cache=False),
    IndexSpec("dict", "page hash in memory", DictIndex, has_cache=False, survives=False),
)
INDEXES: dict[str, IndexSpec] = {spec.name: spec for spec in _SPECS}


def _flat_keys(path: PagePath) -> Iterator[bytes]:
    namespace, hashes = path.namespace, path.hashes
    for i in range(path.start, len(hashes)):
        yield namespace + hashes[i][:_FLAT_HASH_BYTES]


def _flat_value(location: Location) -> bytes:
    """The same value without the part of the hash, which stands in the key already."""
    return encode_index_value(location)[: -keycodec.DIGEST_BYTES]
