"""One file of the tensor log.

Written front to back, preallocated, read from anywhere. Two descriptors serve it: a
buffered one, and an O_DIRECT one opened at first use. A segment that is unlinked while it is being
read stays open until the last reader is done, so that its descriptor cannot come to mean another
file.
"""

import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from sglang_lsm import format
from sglang_lsm.errors import CorruptionError, FormatVersionError, UnavailableError
from sglang_lsm.fs import File, FileSystem

logger = logging.getLogger(__name__)

_NAME = re.compile(r"([0-9a-f]{8})\.seg")
_SCAN_BYTES = 1 << 20

ReadWay = Literal["direct", "cached", "filling"]
"""Around the page cache; out of it; through it, so that it is there the next time."""


def segment_name(segment_id: int) -> str:
    """Return the file name of a segment."""
    return f"{segment_id:08x}.seg"


def parse_segment_name(name: str) -> int | None:
    """Return the id in a segment's file name, or None for any other file."""
    match = _NAME.fullmatch(name)
    return int(match[1], 16) if match else None


class Segment:
    """An open segment. Thread-safe."""

    def __init__(self, fs: FileSystem, path: Path, segment_id: int, buffered: File) -> None:
        self.segment_id = segment_id
        self.end = format.BLOCK_BYTES
        """Offset behind the last byte handed out; owned by the log's tail lock."""
        self.prepared = 0
        """Offset behind the last preallocated byte; owned by the log's tail lock."""
        self._fs, self._path = fs, path
        self._buffered = buffered
        self._direct: File | None = None
        self._lock = threading.Lock()
        self._num_users = 0
        self._retired = False

    @classmethod
    def create(cls, fs: FileSystem, path: Path, segment_id: int, num_bytes: int) -> "Segment":
        """Create and preallocate a segment; leaves nothing behind when there is no room.

        Raises:
            UnavailableError: no space, or the directory is gone.
        """
        file = fs.open(path, create=True)
        try:
            file.allocate(0, num_bytes)
            file.pwritev([format.encode_segment_header(segment_id)], 0)
        except OSError:
            file.close()
            fs.unlink(path)
            raise
        segment = cls(fs, path, segment_id, file)
        segment.prepared = num_bytes
        return segment

    @classmethod
    def open(
        cls, fs: FileSystem, path: Path, segment_id: int, *, read_only: bool = False
    ) -> "Segment":
        """Open a segment written earlier, also one whose header the disk does not give.

        Raises:
            CorruptionError: the header is damaged or names another segment.
            FormatVersionError: written by a newer format.
            UnavailableError: the file cannot be opened.
        """
        file = fs.open(path, read_only=read_only)
        block = bytearray(format.BLOCK_BYTES)
        segment = cls(fs, path, segment_id, file)
        try:
            segment.end = file.size_bytes()
            try:
                file.preadv([memoryview(block)], 0)
            except UnavailableError as error:
                # No reason to do without the pages: each has a checksum of its own.
                logger.warning("a segment whose header cannot be read. reason=%s", error)
                return segment
            if format.decode_segment_header(bytes(block)) != segment_id:
                raise CorruptionError(f"a segment under a foreign name. path={path}")
        except (CorruptionError, OSError):
            file.close()
            raise
        return segment

    def prepare(self, end: int) -> None:
        """Preallocate on, up to `end`; what was punched out before stays so.

        Raises:
            UnavailableError: no space.
        """
        self._buffered.allocate(self.prepared, end - self.prepared)
        self.prepared = end

    @contextmanager
    def in_use(self) -> Iterator[bool]:
        """Hold the descriptors open inside the block; False if the segment is gone already."""
        with self._lock:
            alive = not self._retired
            self._num_users += alive
        try:
            yield alive
        finally:
            if alive:
                with self._lock:
                    self._num_users -= 1
                self._close_if_idle()

    def write(self, buffers: Sequence[memoryview | bytes], offset: int, *, direct: bool) -> None:
        """Write `buffers` at `offset`; `direct` needs 4096-aligned memory and lengths."""
        self._file(direct=direct).pwritev(buffers, offset)

    def read(self, buffers: Sequence[memoryview], offset: int, *, direct: bool) -> int:
        """Fill `buffers` from `offset`; return the bytes read."""
        return self._file(direct=direct).preadv(buffers, offset)

    @contextmanager
    def reading(self, way: ReadWay) -> Iterator[File]:
        """Lend the descriptor for one transfer that goes `way`."""
        if way == "filling":
            with at_own_pace(self._buffered) as file:
                yield file
        else:
            yield self._file(direct=way == "direct")

    def cached_bytes(self, offset: int, num_bytes: int) -> int | None:
        """Return how much of a range is in the page cache; None if the system cannot tell."""
        return self._buffered.cached_bytes(offset, num_bytes)

    def sync(self) -> None:
        """Make the content durable."""
        self._buffered.sync()

    def punch(self, offset: int, num_bytes: int) -> bool:
        """Give the blocks of dead pages back; False where the file system cannot."""
        return self._buffered.punch(offset, num_bytes)

    def has_data(self, offset: int) -> bool:
        """Return whether a page at `offset` has not been punched out."""
        return self._buffered.has_data(offset)

    def seal(self) -> None:
        """Give back what is preallocated behind the last byte handed out."""
        self._buffered.truncate(self.end)
        self.prepared = self.end

    def allocated_bytes(self) -> int:
        """Bytes of disk the segment holds."""
        return self._buffered.allocated_bytes()

    def drop_cache(self) -> None:
        """Ask that the page cache forget this segment."""
        self._buffered.drop_cache()

    def batches(self, *, skips_unreadable: bool = True) -> Iterator[format.Batch]:
        """Yield every intact batch header, in order of offset.

        Where no header stands (a batch that was never finished, a hole), the search goes on block
        by block: what comes behind it is not lost.

        Args:
            skips_unreadable: look behind what the disk does not give, with a warning.

        Raises:
            UnavailableError: an I/O error, unless it is skipped.
        """
        offset, end = format.BLOCK_BYTES, self._buffered.size_bytes()
        skipped_bytes = format.BLOCK_BYTES
        while offset < end:
            try:
                batch = self._batch_at(offset)
                if batch is None:
                    offset = self._next_candidate(offset + format.BLOCK_BYTES, end)
            except UnavailableError as error:
                if not skips_unreadable:
                    raise
                if skipped_bytes == format.BLOCK_BYTES:
                    logger.warning("batches that cannot be read are skipped. reason=%s", error)
                offset += skipped_bytes
                # In larger steps: where nothing can be read, each try may take the disk seconds.
                skipped_bytes = min(2 * skipped_bytes, _SCAN_BYTES)
                continue
            if batch is not None:
                yield batch
                offset, skipped_bytes = batch.end, format.BLOCK_BYTES

    def retire(self, *, unlink: bool) -> None:
        """Close as soon as no reader is left; `unlink` deletes the file at once."""
        with self._lock:
            self._retired = True
        if unlink:
            self._fs.unlink(self._path)
        self._close_if_idle()

    def _batch_at(self, offset: int) -> format.Batch | None:
        block = bytearray(format.BLOCK_BYTES)
        num_read = self._buffered.preadv([memoryview(block)], offset)
        header_bytes = format.peek_batch_header_bytes(
            bytes(block[:num_read]), segment_id=self.segment_id, offset=offset
        )
        # A header of a batch is at most a segment; a damaged one may claim anything.
        if header_bytes is None or offset + header_bytes > self._buffered.size_bytes():
            return None
        header = bytearray(header_bytes)
        if self._buffered.preadv([memoryview(header)], offset) < header_bytes:
            return None
        try:
            return format.decode_batch_header(bytes(header))
        except FormatVersionError:
            raise
        except CorruptionError:
            return None

    def _next_candidate(self, offset: int, end: int) -> int:
        """Return the offset of the next block that starts like a batch header, or `end`."""
        window = bytearray(_SCAN_BYTES)
        while offset < end:
            num_read = self._buffered.preadv([memoryview(window)], offset)
            for at in range(0, num_read, format.BLOCK_BYTES):
                if window.startswith(format.BATCH_MAGIC, at):
                    return offset + at
            offset += max(num_read, format.BLOCK_BYTES)
        return end

    def _file(self, *, direct: bool) -> File:
        if not direct:
            return self._buffered
        with self._lock:
            if self._direct is None:
                self._direct = self._fs.open(self._path, direct=True)
            return self._direct

    def _close_if_idle(self) -> None:
        with self._lock:
            if not self._retired or self._num_users:
                return
            files = [file for file in (self._buffered, self._direct) if file is not None]
            self._direct = None
            # Only the last user gets here, and only once: nobody can enter a retired segment.
            self._num_users = -1
        for file in files:
            file.close()


@contextmanager
def at_own_pace(file: File) -> Iterator[File]:
    """Lend another descriptor of a file, to read what is not in the page cache through it.

    One large read of a random place makes the kernel read ahead 8 MiB in small pieces of memory.
    Small reads in a row let it find its pace: then it reads little more than asked, and keeps it in
    large pieces, which are copied faster, now and at every later read. The pace belongs to a
    descriptor, and two readers of one look like random reads.
    """
    try:
        own = file.again()
    except UnavailableError:
        yield file
        return
    try:
        yield own
    finally:
        own.close()
