"""What a store has left for its next start, and what that start makes of it."""

import logging
from pathlib import Path

from sglang_lsm import format
from sglang_lsm.directory import META_COMPLETE, TABLE_NAME
from sglang_lsm.errors import UnavailableError
from sglang_lsm.fs import FileSystem
from sglang_lsm.index.page_index import PageIndex
from sglang_lsm.tensorlog.log import TensorLog

logger = logging.getLogger(__name__)


def take_table(fs: FileSystem, directory: Path) -> bytes | None:
    """Return the page table of the last clean close, once: a second start gets None.

    It fits the index of that moment; one that was made anew since needs a scan.

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
