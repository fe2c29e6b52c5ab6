"""Looks into a store without opening it for writing, also while a server has it open.

What is seen is a snapshot: batches under way are not in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sglang_lsm import format
from sglang_lsm.directory import FACTS_NAME, INDEX_NAME, LOG_NAME, META_FINGERPRINT
from sglang_lsm.errors import ConfigError, CorruptionError, UnavailableError
from sglang_lsm.fs import LocalFileSystem
from sglang_lsm.index.rocks import RocksIndex
from sglang_lsm.keycodec import HEAD_BYTES, ROOT_ANCHOR
from sglang_lsm.pages import NAMESPACE_BYTES, Location
from sglang_lsm.tensorlog.encoded_pages import is_intact
from sglang_lsm.tensorlog.segment import Segment, parse_segment_name


@dataclass(slots=True)
class NamespaceSurvey:
    """What one fingerprint has in the store."""

    fingerprint: str
    """Canonical JSON, or empty for pages whose fingerprint was not recorded."""
    num_pages: int = 0
    num_bytes: int = 0
    """As they lie on the disk."""
    num_encoded: int = 0
    num_roots: int = 0
    """First pages of prompts: how many distinct beginnings are stored."""


@dataclass(slots=True)
class StoreSurvey:
    """What a store directory holds."""

    directory: Path
    num_segments: int = 0
    allocated_bytes: int = 0
    namespaces: dict[str, NamespaceSurvey] = field(default_factory=dict)
    """By the namespace's 16 hex digits."""


@dataclass(slots=True)
class Verification:
    """The result of reading every page of the log back."""

    num_pages: int = 0
    num_bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    """A line for each page or segment that is not what it should be."""


def find_stores(directory: Path) -> list[Path]:
    """Return the store directories at or right below `directory` (one per rank), sorted.

    Raises:
        ConfigError: there is none.
    """
    if (directory / FACTS_NAME).exists():
        return [directory]
    found = sorted(path.parent for path in directory.glob(f"*/{FACTS_NAME}"))
    if not found:
        raise ConfigError(f"there is no store here. path={directory}")
    return found


def survey(directory: Path) -> StoreSurvey:
    """Count what a store holds. Cost: one scan of the index.

    Raises:
        UnavailableError: the index or the log cannot be read.
        CorruptionError: the index is damaged.
    """
    result = StoreSurvey(directory)
    for segment in _segments(directory):
        result.num_segments += 1
        result.allocated_bytes += segment.allocated_bytes()
        segment.retire(unlink=False)
    index = RocksIndex.open_read_only(directory / INDEX_NAME)
    try:
        for key, value in index.scan_meta(META_FINGERPRINT):
            name = key[len(META_FINGERPRINT) :].hex()
            result.namespaces[name] = NamespaceSurvey(value.decode())
        for key, value in index.scan(b"", None):
            name = key[:NAMESPACE_BYTES].hex()
            entry = result.namespaces.setdefault(name, NamespaceSurvey(""))
            entry.num_pages += 1
            location = format.decode_index_value(value)
            entry.num_bytes += location.length
            entry.num_encoded += location.flags == format.ENCODED
            is_root = key[NAMESPACE_BYTES:HEAD_BYTES] == ROOT_ANCHOR
            entry.num_roots += is_root and len(key) == HEAD_BYTES + len(ROOT_ANCHOR)
    finally:
        index.close()
    return result


def verify(directory: Path) -> Verification:
    """Read every page that the index names and check it. Cost: one read of the whole store.

    Raises:
        UnavailableError: the index cannot be read.
        CorruptionError: the index is damaged.
    """
    result = Verification()
    segments = {segment.segment_id: segment for segment in _segments(directory)}
    index = RocksIndex.open_read_only(directory / INDEX_NAME)
    try:
        for key, value in index.scan(b"", None):
            location = format.decode_index_value(value)
            result.num_pages += 1
            result.num_bytes += location.length
            complaint = _complaint(segments.get(location.segment_id), key, location)
            if complaint is not None:
                result.damaged.append(complaint)
    finally:
        index.close()
        for segment in segments.values():
            segment.retire(unlink=False)
    return result


def _complaint(segment: Segment | None, key: bytes, location: Location) -> str | None:
    """Read a page back; return what is wrong with it, or None."""
    if segment is None:
        return f"segment is missing. segment={location.segment_id}"
    place = f"segment={location.segment_id} offset={location.offset}"
    page = memoryview(bytearray(location.length))
    try:
        num_read = segment.read([page], location.offset, direct=False)
    except UnavailableError as error:
        return f"page cannot be read. {place} reason={error}"
    if num_read < len(page) or not is_intact(key, location, page):
        return f"page does not match its checksum. {place}"
    return None


def _segments(directory: Path) -> Iterator[Segment]:
    """Open the readable segments of a store's log, oldest first."""
    fs = LocalFileSystem()
    for name in fs.list_dir(directory / LOG_NAME):
        segment_id = parse_segment_name(name)
        if segment_id is None:
            continue
        try:
            yield Segment.open(fs, directory / LOG_NAME / name, segment_id, read_only=True)
        except CorruptionError:
            continue
