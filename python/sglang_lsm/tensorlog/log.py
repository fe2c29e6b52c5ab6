"""The tensor log: segments, where the next batch goes, and moving pages in and out.

A batch is reserved under a short lock and written outside it. The index learns of its pages last,
so that no location exists before the bytes do. The header of a batch may reach the disk before its
pages: after a crash in between they match no checksum.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sglang_lsm import format
from sglang_lsm.config import LogConfig
from sglang_lsm.errors import CorruptionError, FormatVersionError, UnavailableError
from sglang_lsm.fs import FileSystem, available_memory_bytes
from sglang_lsm.observability.spending import Spending
from sglang_lsm.pages import Location, PageBuffer
from sglang_lsm.tensorlog.io_modes import IoModes
from sglang_lsm.tensorlog.new_batch import NewBatch, Reservation, Seal
from sglang_lsm.tensorlog.page_reads import PageRow, ReadRequest
from sglang_lsm.tensorlog.scratch import Scratch
from sglang_lsm.tensorlog.segment import ReadWay, Segment, parse_segment_name, segment_name
from sglang_lsm.tensorlog.transfer import (
    Transfer,
    fits_direct_io,
    gather_write,
    page_bytes,
    plan_transfers,
)
from sglang_lsm.tensorlog.trial import try_file_system
from sglang_lsm.tensorlog.workers import Workers, all_ended, raise_first

logger = logging.getLogger(__name__)


class ReadResult(NamedTuple):
    """What became of the pages of one read, in the caller's order."""

    intact: list[bool]
    """True where the caller's buffer holds the page, verified."""
    damaged: list[int]
    """Indices of pages that were read and did not match their checksum."""


class TensorLog:
    """The segments of one store. Thread-safe; `close` must come last."""

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        config: LogConfig,
        *,
        admit: Callable[[int, int], None],
        clock_ms: Callable[[], int],
        first_id: int = 1,
    ) -> None:
        """Open the log.

        Args:
            admit: called before a segment is created, or preallocated again, with its id and by
                how many bytes; makes room or raises UnavailableError. May call `drop`.
            first_id: no new segment gets a smaller id, whatever files there are.
            clock_ms: wall time, written into batch headers.
        """
        self.spending = Spending()
        """Told what transfers cost."""
        self._fs, self._directory, self._config = fs, directory, config
        self._admit, self._clock_ms = admit, clock_ms
        self._tail_lock = threading.Lock()
        self._segments_lock = threading.Lock()
        self._sync_lock = threading.Lock()
        """One sync at a time. Taken under no other lock of the log, before `_segments_lock`."""
        self._segments: dict[int, Segment] = {}
        self._allocated_bytes: dict[int, int] = {}
        """What each segment takes of the disk."""
        self._unsynced: set[Segment] = set()
        """Segments that were written since they were last synced, sealed ones included."""
        self._tail: Segment | None = None
        self._scratch = Scratch(keep_bytes=config.io_bytes)
        self._next_id = first_id
        self._workers = Workers(config.reader_threads, self.spending)
        fs.make_dir(directory)
        self.can_punch, can_direct = try_file_system(fs, directory)
        """Whether the file system gives single pages back; if not, whole segments have to go."""
        self._modes = IoModes(config.io_mode, can_direct=can_direct)
        if config.io_mode == "direct" and not can_direct:
            logger.warning(
                "the file system takes no O_DIRECT; going on buffered. path=%s", directory
            )
        if config.unsafe_skip_checksums:
            logger.warning("pages are handed out without a check. path=%s", directory)
        self._open_segments()

    def tune(self, config: LogConfig) -> None:
        """Move pages by the I/O mode, bytes a call and threads of `config` from now on.

        Calls under way end as they began. The other settings stay.
        """
        self._workers.resize(config.reader_threads)
        self._config = replace(
            self._config,
            io_mode=config.io_mode,
            io_bytes=config.io_bytes,
            reader_threads=config.reader_threads,
        )
        self._modes.tune(config.io_mode)

    def _open_segments(self) -> None:
        for name in self._fs.list_dir(self._directory):
            segment_id = parse_segment_name(name)
            if segment_id is None:
                logger.warning("a foreign file in the log, left alone. name=%s", name)
                continue
            self._next_id = max(self._next_id, segment_id + 1)
            path = self._directory / name
            try:
                segment = Segment.open(self._fs, path, segment_id)
            except FormatVersionError:
                raise
            except CorruptionError as error:
                # Created but not written when the process died, or damaged: no page of it can be
                # told from garbage, so its space is better given back.
                logger.warning("an unreadable segment, deleted. name=%s reason=%s", name, error)
                self._fs.unlink(path)
                continue
            self._segments[segment_id] = segment
            self._allocated_bytes[segment_id] = segment.allocated_bytes()
        # Nobody knows what the process before has synced.
        self._unsynced.update(self._segments.values())
        if self._segments:
            self._trim(self._segments[max(self._segments)])
        self._compare_with_memory()

    def _compare_with_memory(self) -> None:
        self._modes.is_beyond_memory = self.allocated_bytes() > 2 * available_memory_bytes()

    def _trim(self, segment: Segment) -> None:
        """Give back what the last segment had preallocated when its process ended."""
        end = format.BLOCK_BYTES
        try:
            if segment.end < self._config.segment_bytes and segment.has_data(
                segment.end - format.BLOCK_BYTES
            ):
                # Sealed when the log was closed: no need to read where each batch begins.
                return
            for batch in segment.batches(skips_unreadable=False):
                end = max(end, batch.end)
        except UnavailableError as error:
            # Its last pages may be those of a batch that cannot be read now.
            logger.warning("what is preallocated is not given back. reason=%s", error)
            return
        segment.end = end
        segment.seal()
        self._allocated_bytes[segment.segment_id] = segment.allocated_bytes()

    def has(self, segment_id: int) -> bool:
        """Return whether a segment exists: a location in any other is stale."""
        return segment_id in self._segments

    def tail_id(self) -> int:
        """Return the id of the newest segment: later pages lie in it or in a younger one."""
        return self._next_id - 1

    def segment_ids(self) -> list[int]:
        """Return the ids of all segments, oldest first."""
        with self._segments_lock:
            return sorted(self._segments)

    def sealed_ids(self) -> list[int]:
        """Return the ids of the segments that take no more pages, oldest first."""
        tail = self._tail
        return [i for i in self.segment_ids() if tail is None or i != tail.segment_id]

    def allocated_bytes(self) -> int:
        """Return the bytes of disk the log holds, preallocation included."""
        with self._segments_lock:
            return sum(self._allocated_bytes.values())

    def batches(self, segment_id: int) -> list[format.Batch]:
        """Return the intact batch headers of a segment, oldest first; empty if it is gone."""
        with self._segments_lock:
            segment = self._segments.get(segment_id)
        if segment is None:
            return []
        with segment.in_use() as alive:
            return list(segment.batches()) if alive else []

    def append(
        self,
        keys: Sequence[bytes],
        hash_tails: Sequence[bytes],
        pages: Sequence[PageBuffer],
        *,
        still_valid: Callable[[], bool] | None = None,
        seals: Sequence[Seal] | None = None,
    ) -> list[Location] | None:
        """Write pages behind the newest; return where each lies, or None if withdrawn.

        Args:
            seals: of pages that lie in the log already; `pages` are then as they shall lie.
            still_valid: asked after the bytes were taken from `pages` and before a header names
                them. If it says no, what was written is dead bytes that nothing can ever refer to.

        Raises:
            UnavailableError: no room, an I/O error, or a page larger than a segment. Pages written
                before the failure are dead bytes: nothing refers to them.
        """
        locations: list[Location] = []
        lengths = [page_bytes(page) for page in pages]
        while len(locations) < len(keys):
            at = len(locations)
            place = self._reserve(keys[at:], lengths[at:])
            part = slice(at, at + place.num_pages)
            with place.segment.in_use() as alive:
                if not alive:
                    # Filled up and evicted by others since the reservation: its descriptors may
                    # mean other files by now.
                    continue
                batch = NewBatch(
                    keys[part], pages[part], hash_tails[part], lengths[part],
                    seals and seals[part],
                )  # fmt: skip
                written = self._write(place, batch, still_valid)
            if written is None:
                return None
            locations += written
        return locations

    def read(
        self, keys: Sequence[bytes], locations: Sequence[Location], out: Sequence[PageBuffer]
    ) -> ReadResult:
        """Read pages into the caller's memory and verify them.

        Never raises for what is on the disk: a page that cannot be read is not intact. The content
        of `out` is undefined where a page is not intact.
        """
        pages = ReadRequest(keys, locations, out, not self._config.unsafe_skip_checksums)
        result = ReadResult([False] * len(keys), [])
        transfers = plan_transfers(locations, io_bytes=self._config.io_bytes)

        def run(transfer: Transfer) -> None:
            self._read_transfer(transfer, pages, result)

        self._workers.run_all([lambda t=t: run(t) for t in transfers])  # type: ignore[misc]
        return result

    def read_stored(self, locations: Sequence[Location], out: Sequence[PageBuffer]) -> list[bool]:
        """Read pages as they lie on the disk, encoded or not; return which came. None is verified.

        Args:
            out: of each page as many bytes as it takes there.
        """
        plain = [at._replace(flags=0) for at in locations]
        pages = ReadRequest([b""] * len(plain), plain, out, verifies=False)
        result = ReadResult([False] * len(plain), [])
        for transfer in plan_transfers(plain, io_bytes=self._config.io_bytes):
            self._read_transfer(transfer, pages, result, around_cache=True)
        return result.intact

    def sync(self) -> None:
        """Make every page written so far durable, those of earlier processes included.

        Waits for a sync under way, which may have taken over the segments that it is asked for.

        Raises:
            UnavailableError: an I/O error; what was written so far may never be durable. The next
                call tries again and may succeed, since Linux takes bytes that it failed to write
                for written: such pages are misses once they have left the page cache.
        """
        with self._sync_lock:
            with self._segments_lock:
                unsynced, self._unsynced = self._unsynced, set()
            while unsynced:
                segment = unsynced.pop()
                try:
                    with segment.in_use() as alive:
                        if alive:
                            segment.sync()
                except UnavailableError:
                    with self._segments_lock:
                        self._unsynced |= {segment, *unsynced}
                    raise
            self._fs.sync_dir(self._directory)

    def drop(self, segment_id: int) -> None:
        """Delete a segment that is not the tail; its pages become misses at once.

        Raises:
            UnavailableError: the file cannot be deleted; its bytes still count, call again.
        """
        with self._segments_lock:
            segment = self._segments.get(segment_id)
        if segment is None:
            return
        segment.retire(unlink=True)
        with self._segments_lock:
            self._segments.pop(segment_id, None)
            self._allocated_bytes.pop(segment_id, None)
            self._unsynced.discard(segment)

    def punch(self, locations: Sequence[Location]) -> None:
        """Give the blocks of dead pages back at once; does nothing where `can_punch` is False.

        The caller has made sure that the index no longer names them; a reader that still holds a
        location reads zeros, which no checksum matches.

        So is what is preallocated: who wants bytes back wants the disk to hold what is stored.

        Raises:
            UnavailableError: an I/O error; the bytes stay counted until the segment goes.
        """
        if not self.can_punch:
            return
        for hole in plan_transfers(locations, io_bytes=self._config.segment_bytes):
            segment = self._segments.get(hole.segment_id)
            if segment is None:
                continue
            with segment.in_use() as alive:
                if not alive:
                    continue
                self.can_punch = segment.punch(hole.offset, hole.num_bytes)
                self._count(segment)
        self._trim_tail()

    def has_data(self, location: Location) -> bool:
        """Return whether a page's bytes are still there, not punched out."""
        segment = self._segments.get(location.segment_id)
        if segment is None:
            return False
        with segment.in_use() as alive:
            return alive and segment.has_data(location.offset)

    def drop_cache(self) -> None:
        """Ask that the page cache forget the log; for benchmarks."""
        for segment_id in self.segment_ids():
            segment = self._segments[segment_id]
            segment.sync()
            segment.drop_cache()

    def close(self) -> None:
        """Seal the tail and close every file; no other call may follow or be under way."""
        self._workers.close()
        with self._tail_lock:
            if self._tail is not None:
                self._seal_tail()
        for segment in self._segments.values():
            segment.retire(unlink=False)

    def _reserve(self, keys: Sequence[bytes], lengths: Sequence[int]) -> Reservation:
        room = self._config.segment_bytes - format.BLOCK_BYTES
        if format.num_fitting(keys[:1], lengths[:1], room) == 0:
            # Found out before a segment is sealed and others are evicted in vain.
            raise UnavailableError(
                f"a page does not fit into a segment. page_bytes={lengths[0]} "
                f"segment_bytes={self._config.segment_bytes}"
            )
        with self._tail_lock:
            if self._tail is not None:
                place = self._reserve_in_tail(self._tail, keys, lengths)
                if place is not None:
                    return place
                self._seal_tail()
            place = self._reserve_in_tail(self._new_tail(), keys, lengths)
            assert place is not None, "a page that fits into a segment fits into an empty one"
            return place

    def _reserve_in_tail(
        self, tail: Segment, keys: Sequence[bytes], lengths: Sequence[int]
    ) -> Reservation | None:
        room = self._config.segment_bytes - tail.end
        num_pages = format.num_fitting(keys, lengths, room)
        if num_pages == 0:
            return None
        header_bytes = format.batch_header_bytes(keys[:num_pages])
        offset = tail.end
        end = offset + header_bytes + sum(map(format.padded, lengths[:num_pages]))
        if end > tail.prepared:
            self._prepare(tail)
        tail.end = end
        return Reservation(tail, offset, header_bytes, num_pages)

    def _prepare(self, tail: Segment) -> None:
        """Preallocate the rest of the tail once more, after it was given back."""
        size = self._config.segment_bytes
        self._admit(tail.segment_id, size - tail.prepared)
        try:
            tail.prepare(size)
        finally:
            self._count(tail)

    def _trim_tail(self) -> None:
        """Give back what is preallocated and not written yet, unless more is just being taken."""
        if not self._tail_lock.acquire(blocking=False):
            return
        try:
            tail = self._tail
            if tail is not None and tail.end < tail.prepared:
                tail.seal()
                self._count(tail)
        finally:
            self._tail_lock.release()

    def _count(self, segment: Segment) -> None:
        """Note what a segment takes now."""
        # Asked under the lock: the later answer must not be replaced by an earlier one.
        with self._segments_lock:
            if segment.segment_id in self._allocated_bytes:
                self._allocated_bytes[segment.segment_id] = segment.allocated_bytes()

    def _new_tail(self) -> Segment:
        size = self._config.segment_bytes
        # Taken even if the file cannot be made: a name that is left over must not block the next.
        segment_id = self._next_id
        self._next_id += 1
        self._admit(segment_id, size)
        path = self._directory / segment_name(segment_id)
        tail = Segment.create(self._fs, path, segment_id, size)
        with self._segments_lock:
            self._segments[segment_id] = tail
            self._allocated_bytes[segment_id] = size
        if self._config.durability == "batch":
            try:
                # A synced page in a file whose name is lost is lost as well.
                self._fs.sync_dir(self._directory)
            except UnavailableError:
                self.drop(segment_id)
                raise
        self._tail = tail
        self._compare_with_memory()
        return tail

    def _seal_tail(self) -> None:
        tail = self._tail
        assert tail is not None
        self._tail = None
        tail.seal()
        self._count(tail)

    def _write(
        self,
        place: Reservation,
        new: NewBatch,
        still_valid: Callable[[], bool] | None,
    ) -> list[Location] | None:
        pages = new.pages
        direct = self._modes.writes_direct and fits_direct_io(pages)
        # The page cache takes bytes at the speed of memory, and one file has one lock for that:
        # only direct writes gain from several calls under way.
        io_bytes = self._config.io_bytes if direct else self._config.segment_bytes
        # One call takes the header along. What may be withdrawn must not be named before that.
        is_one_call = still_valid is None and sum(new.lengths) <= io_bytes
        transfers = [] if is_one_call else plan_transfers(new.unsealed(place), io_bytes=io_bytes)
        with all_ended() as writes:
            for transfer in transfers:
                writes.append(
                    self._workers.submit(
                        self._write_parts,
                        place.segment,
                        gather_write((pages[i], new.lengths[i]) for i in transfer.indices),
                        transfer.offset,
                        direct=direct,
                    )
                )
            # With several calls under way, checksums are computed while the device is busy.
            batch = new.describe(place, self._clock_ms())
            if still_valid is not None:
                raise_first(writes)
                if not still_valid():
                    return None
            parts: list[memoryview | bytes] = [self._aligned(format.encode_batch_header(batch))]
            if is_one_call:
                parts += gather_write(zip(pages, new.lengths, strict=True))
            # Alone behind its pages, a header would cost as long as half a MiB of them.
            self._write_parts(place.segment, parts, place.offset, direct=direct)
        if self._config.durability == "batch":
            place.segment.sync()
        else:
            with self._segments_lock:
                self._unsynced.add(place.segment)
        return batch.locations()

    def _write_parts(
        self, segment: Segment, parts: Sequence[memoryview | bytes], offset: int, *, direct: bool
    ) -> None:
        with self.spending.transfer("write"):
            segment.write(parts, offset, direct=direct)

    def _read_transfer(
        self,
        transfer: Transfer,
        pages: ReadRequest,
        result: ReadResult,
        *,
        around_cache: bool = False,
    ) -> None:
        """Read and verify pages; those of which the disk gives no answer stay misses."""
        segment = self._segments.get(transfer.segment_id)
        if segment is None:
            return
        row = PageRow.of(transfer, pages, self._scratch)
        with segment.in_use() as alive:
            if not alive:
                return
            try:
                fits_direct = fits_direct_io(row.memory)
                if around_cache and fits_direct and self._modes.writes_direct:
                    way: ReadWay = "direct"
                else:
                    way = self._modes.way_to_read(segment, transfer, fits_direct=fits_direct)
                timed = partial(self.spending.transfer, "read")
                with segment.reading(way) as file:
                    for i, verdict in row.read(file, timed):
                        result.intact[i] = verdict == "intact"
                        if verdict == "damaged":
                            result.damaged.append(i)
            except UnavailableError as error:
                logger.warning("cannot read pages, counted as misses. reason=%s", error)

    def _aligned(self, header: bytes) -> memoryview:
        """Copy a header to this thread's memory that O_DIRECT accepts; valid until the next one."""
        memory = self._scratch.take(len(header))
        memory[:] = header
        return memory
