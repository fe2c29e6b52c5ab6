"""What a store has left for its next start, and what that start makes of it."""

import logging
import mmap
from pathlib import Path

from sglang_lsm import format
from sglang_lsm.directory import META_COMPLETE, TABLE_NAME
from sglang_lsm.errors import UnavailableError
from sglang_lsm.fs import File, FileSystem
from sglang_lsm.index.page_index import PageIndex
from sglang_lsm.tensorlog.log import TensorLog

logger = logging.getLogger(__name__)


class KeptTable:
    """The page table of the last clean close: its name is gone already, its bytes are read once."""

    def __init__(self, file: File) -> None:
        self._file: File | None = file

    def take(self) -> memoryview | None:
        """Return the bytes, or None where they cannot be read or were taken.

        In memory of their own, which goes back to the system with the last reference: at 10^7 pages
        they are the largest thing in memory at a start.
        """
        file, self._file = self._file, None
        if file is None:
            return None
        try:
            memory = memoryview(mmap.mmap(-1, max(1, file.size_bytes())))[: file.size_bytes()]
            return memory[: file.preadv([memory], 0)]
        except UnavailableError as error:
            logger.warning("the page table is scanned anew. reason=%s", error)
            return None
        finally:
            file.close()

    def close(self) -> None:
        """Do without. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def take_table(fs: FileSystem, directory: Path, *, fits: bool = True) -> KeptTable | None:
    """Return the page table of the last clean close, once: a second start gets None.

    Args:
        fits: whether the index is still that of then; one that was made anew needs a scan.

    Raises:
        UnavailableError: an I/O error.
    """
    if TABLE_NAME not in fs.list_dir(directory):
        return None
    place = directory / TABLE_NAME
    kept = KeptTable(fs.open(place, read_only=True)) if fits else None
    try:
        # It holds for this moment only; a crash must not leave it to the next start.
        fs.unlink(place)
        fs.sync_dir(directory)
    except UnavailableError:
        if kept is not None:
            kept.close()
        raise
    return kept


def keep_table(fs: FileSystem, directory: Path, content: bytes | None) -> None:
    """Leave the page table to the next start; without one, or where that fails, it scans."""
    if content is None:
        return
    try:
        fs.replace(directory / TABLE_NAME, content)
    except UnavailableError as error:
        logger.warning("the next start scans the page table. reason=%s", error)


def rebuild_index(index: PageIndex, log: TensorLog) -> int:
    """Fill a new index from the batch headers of the log; later batches win. Return how many pages.

    Pages that were evicted or deleted stay so: their bytes were punched out. Those of a batch that
    the disk does not tell of are misses from now on; their bytes count until their segment goes.

    Raises:
        UnavailableError: the index cannot be written; the next start begins again.
    """
    num_pages = 0
    for segment_id in log.segment_ids():
        for batch in log.batches(segment_id):
            try:
                entries = [
                    (entry.key, format.encode_index_value(location))
                    for entry, location in zip(batch.entries, batch.locations(), strict=True)
                    if log.has_data(location)
                ]
            except UnavailableError as error:
                logger.warning("a batch is left out of the index. reason=%s", error)
                continue
            index.put(entries)
            num_pages += len(entries)
    index.put_meta(META_COMPLETE, b"1")
    if num_pages:
        logger.warning("the index was rebuilt from the log. num_pages=%d", num_pages)
    return num_pages
