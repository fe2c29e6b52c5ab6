"""Where a store's pages lie in its files, so that a test can damage one behind its back."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sglang_lsm.fs import LocalFileSystem
from sglang_lsm.pages import Location
from sglang_lsm.survey import find_stores
from sglang_lsm.tensorlog.segment import Segment, parse_segment_name, segment_name


def page_locations(directory: Path) -> list[Location]:
    """Return every page of the log below a tier's directory, oldest first."""
    locations: list[Location] = []
    for store in find_stores(directory):
        for path in sorted((store / "log").iterdir()):
            segment_id = parse_segment_name(path.name)
            if segment_id is None:
                continue
            segment = Segment.open(LocalFileSystem(), path, segment_id, read_only=True)
            for batch in segment.batches():
                locations += batch.locations()
            segment.retire(unlink=False)
    return locations


def read_page(directory: Path, page: Location) -> bytes:
    """Return a page's bytes."""
    with _segment_fd(directory, page) as fd:
        return os.pread(fd, page.length, page.offset)


def overwrite_page(directory: Path, page: Location, content: bytes, *, drop_cache: bool) -> None:
    """Write over a page in place; `drop_cache` leaves the bytes on the disk alone."""
    with _segment_fd(directory, page) as fd:
        os.pwrite(fd, content, page.offset)
        if drop_cache:
            os.fdatasync(fd)  # noqa: TID251 - a test writes behind the store's back
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def _segment_fd(directory: Path, page: Location) -> Iterator[int]:
    (store,) = find_stores(directory)
    fd = os.open(store / "log" / segment_name(page.segment_id), os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)
