"""What operators ask for of prefixes: pinned, of a priority, or to be forgotten at a time.

A hold names a prefix by its radix path, whether its pages are stored already or not. Pin and
priority are about the pages of the prefix itself, from the root to its end; an expiry is about its
last page and everything that extends it. Pages that come later take what holds say of them.

The file `HOLDS` keeps them, beside the index, so that they outlive a lost index:

    one JSON object, on one line; then, on a line of its own, its xxh3-64 in hexadecimal

It is replaced as a whole and durably at each change: a hold that was acknowledged survives kill -9
and power loss. One that cannot be read is left out of account: nothing is held, nothing is wrong.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xxhash

from sglang_lsm import keycodec
from sglang_lsm.catalog import Catalog
from sglang_lsm.errors import CorruptionError, FormatVersionError, UnavailableError
from sglang_lsm.eviction.hold_marks import HoldMarks
from sglang_lsm.eviction.traits import MAX_PRIORITY
from sglang_lsm.fs import FileSystem
from sglang_lsm.keycodec import DIGEST_BYTES
from sglang_lsm.pages import NamespaceId, PagePath

logger = logging.getLogger(__name__)

HOLDS_NAME = "HOLDS"
HOLDS_VERSION = 1
MAX_HELD_PAGES = 1 << 16
"""Pages of all held prefixes together; bounds the file, and memory at about 10 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What is asked for of one prefix."""

    namespace: NamespaceId
    digests: bytes
    """8 bytes a page, from the root to the end of the prefix."""
    pinned: bool = False
    """Its pages are never evicted, as long as pinned pages stay within their share of the quota."""
    priority: int = 0
    """0 to 3: its pages leave after all pages of a lower priority."""
    expires_at_ms: int | None = None
    """Wall time from which its last page, and what extends it, are misses. Then it is over."""

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be asked for."""
        if not 0 <= self.priority <= MAX_PRIORITY:
            raise ValueError(f"priority must be 0 to {MAX_PRIORITY}. value={self.priority}")
        if not self.digests or len(self.digests) % DIGEST_BYTES:
            raise ValueError(f"a prefix has one page or more. bytes={len(self.digests)}")

    @property
    def num_pages(self) -> int:
        """Pages of the prefix."""
        return len(self.digests) // DIGEST_BYTES

    def index_keys(self) -> list[bytes]:
        """Return the key of each of its pages, from the root on."""
        hashes = [
            self.digests[i : i + DIGEST_BYTES] for i in range(0, len(self.digests), DIGEST_BYTES)
        ]
        return list(keycodec.encode(PagePath(self.namespace, hashes)))


def digests_of(path: PagePath) -> bytes:
    """Return what a hold keeps of a path: all of it, from the root to its end."""
    return b"".join(page_hash[:DIGEST_BYTES] for page_hash in path.hashes)


def encode_holds(holds: Iterable[Hold]) -> bytes:
    """Return the content of the file `HOLDS`."""
    entries = [
        {**asdict(hold), "namespace": hold.namespace.hex(), "digests": hold.digests.hex()}
        for hold in holds
    ]
    line = json.dumps({"format_version": HOLDS_VERSION, "holds": entries}, sort_keys=True).encode()
    return line + b"\n" + xxhash.xxh3_64_hexdigest(line).encode() + b"\n"


def decode_holds(content: bytes) -> list[Hold]:
    """Inverse of `encode_holds`.

    Raises:
        CorruptionError: not such a file, or damaged.
        FormatVersionError: written by a newer version.
    """
    line, _, seal = content.partition(b"\n")
    if seal.strip() != xxhash.xxh3_64_hexdigest(line).encode():
        raise CorruptionError("the file HOLDS is damaged")
    try:
        facts = json.loads(line)
        if facts["format_version"] > HOLDS_VERSION:
            raise FormatVersionError(f"holds of a newer version. version={facts['format_version']}")
        return [
            Hold(**{
                **entry,
                "namespace": NamespaceId(bytes.fromhex(entry["namespace"])),
                "digests": bytes.fromhex(entry["digests"]),
            })
            for entry in facts["holds"]
        ]  # fmt: skip
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptionError(f"the file HOLDS is unreadable: {error}") from error


def read_holds(fs: FileSystem, directory: Path) -> list[Hold]:
    """Return the holds of a store; none, with a warning, where they cannot be read.

    Raises:
        FormatVersionError: written by a newer version.
        UnavailableError: an I/O error.
    """
    content = fs.read(directory / HOLDS_NAME)
    if content is None:
        return []
    try:
        return decode_holds(content)
    except FormatVersionError:
        raise
    except CorruptionError as error:
        logger.warning("nothing is held any more. path=%s reason=%s", directory, error)
        return []


def changed(holds: Sequence[Hold], hold: Hold) -> list[Hold]:
    """Return `holds` with one set, in place of an earlier one of the same prefix.

    One that asks for nothing releases the prefix.

    Raises:
        UnavailableError: more pages than can be held.
    """
    kept = [h for h in holds if (h.namespace, h.digests) != (hold.namespace, hold.digests)]
    if hold.pinned or hold.priority or hold.expires_at_ms is not None:
        kept.append(hold)
    num_pages = sum(h.num_pages for h in kept)
    if num_pages > MAX_HELD_PAGES:
        raise UnavailableError(f"too many pages are held. pages={num_pages} limit={MAX_HELD_PAGES}")
    return kept


class Holds:
    """The holds of an open store. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        fs: FileSystem,
        directory: Path,
        *,
        max_pinned_bytes: int,
        clock_ms: Callable[[], int],
    ) -> None:
        """Read what is held and mark its pages.

        Args:
            max_pinned_bytes: a hold that would pin more is refused; a page that comes later and
                would exceed it is stored without its pin.
            clock_ms: wall time.

        Raises:
            FormatVersionError, UnavailableError: see `read_holds`.
        """
        self._catalog, self._fs, self._directory = catalog, fs, directory
        self._max_pinned_bytes, self._clock_ms = max_pinned_bytes, clock_ms
        self._lock = threading.Lock()
        self._holds = read_holds(fs, directory)
        self._adopt(self._holds)

    def all(self) -> list[Hold]:
        """Return what is held now."""
        return list(self._holds)

    def set(self, hold: Hold) -> None:
        """Hold a prefix in place of what was asked of it before; durable on return.

        Raises:
            UnavailableError: too many pages are held or pinned, or an I/O error; nothing changed.
        """
        with self._lock:
            kept = changed(self._holds, hold)
            if hold.pinned:
                num_bytes = self._catalog.num_pinned_bytes(_marks(kept))
                if num_bytes > self._max_pinned_bytes:
                    raise UnavailableError(
                        "no room to pin the prefix. "
                        f"pinned_bytes={num_bytes} limit={self._max_pinned_bytes}"
                    )
            self._keep(kept)

    def num_unexpired(self, path: PagePath) -> int:
        """Return how many leading pages of the call have not expired. Cheap while none has."""
        now_ms, next_ms = self._clock_ms(), self._next_expiry_ms
        if next_ms is None or now_ms < next_ms:
            return path.num_pages
        digests, num_pages = digests_of(path), path.num_pages
        for hold in self._expired(now_ms):
            if hold.namespace == path.namespace and digests.startswith(hold.digests):
                num_pages = min(num_pages, max(0, hold.num_pages - 1 - path.start))
        return num_pages

    def expire(self) -> int:
        """Forget the pages of prefixes that have expired, and their holds; return how many pages.

        Raises:
            UnavailableError: an I/O error; what was not done is done at the next call.
        """
        with self._lock:
            expired = self._expired(self._clock_ms())
            if not expired:
                return 0
            num_gone = self._catalog.forget_ranges([h.index_keys()[-1] for h in expired])
            self._keep([h for h in self._holds if h not in expired])
        return num_gone

    def _expired(self, now_ms: int) -> list[Hold]:
        return [h for h in self._holds if h.expires_at_ms is not None and h.expires_at_ms <= now_ms]

    def _keep(self, holds: list[Hold]) -> None:
        self._fs.replace(self._directory / HOLDS_NAME, encode_holds(holds))
        self._adopt(holds)

    def _adopt(self, holds: list[Hold]) -> None:
        self._holds = holds
        self._next_expiry_ms = min(
            (h.expires_at_ms for h in holds if h.expires_at_ms is not None), default=None
        )
        self._catalog.set_marks(_marks(holds), max_pinned_bytes=self._max_pinned_bytes)


def _marks(holds: Sequence[Hold]) -> HoldMarks:
    pinned = dict.fromkeys(key for hold in holds if hold.pinned for key in hold.index_keys())
    parts = []
    for hold in holds:
        salt = np.uint64(int.from_bytes(hold.namespace, "big"))
        keys = np.frombuffer(hold.digests, ">u8").astype(np.uint64) ^ salt
        parts.append((keys, hold.priority, hold.pinned))
    return HoldMarks.of(parts, tuple(pinned))
