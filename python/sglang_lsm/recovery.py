"""What a store has left for its next start, and what that start makes of it."""

import logging
from pathlib import Path

from sglang_lsm import format
from sglang_lsm.catalog import Catalog
from sglang_lsm.directory import META_COMPLETE, TABLE_NAME
from sglang_lsm.errors import CorruptionError, UnavailableError
from sglang_lsm.fs import FileSystem
from sglang_lsm.index.page_index import PageIndex
from sglang_lsm.tensorlog.log import TensorLog

logger = logging.getLogger(__name__)


def take_table(fs: FileSystem, directory: Path) -> bytes | None:
    """Return the page table of the last clean close, once: a second start gets None.

    Raises:
        UnavailableError: an I/O error.
    """
    place = directory / TABLE_NAME
    content = fs.read(place)
    if content is not None:
        # It holds for this moment only; a crash must not leave it to the next start.
        fs.unlink(place)
        fs.sync_dir(directory)
    return content


def restore_table(fs: FileSystem, directory: Path, catalog: Catalog, *, is_rebuilt: bool) -> bool:
    """Take the page table of the last clean close, if it was left and still tells the truth.

    Args:
        is_rebuilt: the index was made anew since, so the table does not fit it.

    Raises:
        UnavailableError: an I/O error.
    """
    content = take_table(fs, directory)
    if content is None or is_rebuilt:
        return False
    try:
        catalog.restore(content)
    except CorruptionError as error:
        logger.warning("the page table is scanned anew. reason=%s", error)
        return False
    return True


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

    Pages that were evicted or deleted stay so: their bytes were punched out.

    Raises:
        UnavailableError: an I/O error; the next start begins again.
    """
    num_pages = 0
    for segment_id in log.segment_ids():
        for batch in log.batches(segment_id):
            entries = [
                (entry.key, format.encode_index_value(location))
                for entry, location in zip(batch.entries, batch.locations(), strict=True)
                if log.has_data(location)
            ]
            index.put(entries)
            num_pages += len(entries)
    index.put_meta(META_COMPLETE, b"1")
    if num_pages:
        logger.warning("the index was rebuilt from the log. num_pages=%d", num_pages)
    return num_pages
