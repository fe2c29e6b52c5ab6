"""What a store directory is: its names, and the checks before one is opened."""

import logging
from collections.abc import Callable
from pathlib import Path

from sglang_lsm import format
from sglang_lsm.errors import ConfigError, CorruptionError, UnavailableError
from sglang_lsm.fs import DRAFT_SUFFIX, FileSystem, LocalFileSystem, Lock
from sglang_lsm.index.page_index import PageIndex

logger = logging.getLogger(__name__)

FACTS_NAME, INDEX_NAME, LOG_NAME = "STORE", "index", "log"
LOCK_NAME = "LOCK"
DAMAGED_NAME = "INDEX_DAMAGED"
TABLE_NAME = "PAGES"
# What a directory may hold and still be empty: the lock, the draft of a STORE whose process died
# before it was complete, and what mkfs puts into a file system of its own.
NO_CONTENT = (LOCK_NAME, FACTS_NAME + DRAFT_SUFFIX, "lost+found")

META_COMPLETE = b"complete"
META_NEXT_SEGMENT = b"next_segment"
META_FINGERPRINT = b"fingerprint/"
"""Keys of the index's meta family; the last one is a prefix, a namespace follows."""


def check_directory(directory: Path) -> None:
    """Check that a store could be opened in `directory`, and create it if it is missing.

    Nothing that is in it is changed; one that is refused gets no new file either.

    Raises:
        ConfigError: another process has it open, it holds something else, or cannot be written.
        FormatVersionError: written by a newer version.
        CorruptionError: it is a store whose facts are unreadable.
    """
    fs = LocalFileSystem()
    try:
        fs.make_dir(directory)
        claim_directory(fs, directory).release()
    except UnavailableError as error:
        raise ConfigError(f"the store directory cannot be used: {error}") from error


def claim_directory(fs: FileSystem, directory: Path) -> Lock:
    """Lock a directory that is a store, or empty; one that is refused gets no file.

    Raises:
        ConfigError: another process has it open, or it holds something else.
        FormatVersionError: it is a store of a newer version.
        CorruptionError: its facts are unreadable.
        UnavailableError: it cannot be read or written.
    """
    # Before the lock, which is a file: somebody else's directory stays as it is.
    _read_facts(fs, directory)
    return fs.lock(directory / LOCK_NAME)


def _read_facts(fs: FileSystem, directory: Path) -> bool:
    """Return whether `directory` holds a store already."""
    content = fs.read(directory / FACTS_NAME)
    if content is not None:
        format.decode_store_facts(content)
        return True
    foreign = [name for name in fs.list_dir(directory) if name not in NO_CONTENT]
    if foreign:
        raise ConfigError(
            "the directory is not empty and holds no store; choose another, or empty it. "
            f"path={directory} found={foreign[0]!r}"
        )
    return False


def create_facts(fs: FileSystem, directory: Path) -> None:
    """Make the directory a store unless it is one.

    Raises:
        ConfigError: it holds something else.
        FormatVersionError: it is a store of a newer version.
        CorruptionError: its facts are unreadable.
    """
    if not _read_facts(fs, directory):
        fs.replace(directory / FACTS_NAME, format.encode_store_facts({"kind": "sglang-lsm"}))


def discard_damaged_index(fs: FileSystem, directory: Path) -> None:
    """Delete an index that was found damaged while serving; the log rebuilds it."""
    if fs.read(directory / DAMAGED_NAME) is not None:
        logger.warning("the index was found damaged; rebuilding it. path=%s", directory)
        fs.remove_tree(directory / INDEX_NAME)
        fs.unlink(directory / DAMAGED_NAME)


def mark_index_damaged(fs: FileSystem, directory: Path) -> None:
    """See to it that the next start rebuilds the index from the log.

    Until then, what its damaged blocks held are misses; the rest goes on being found.
    """
    logger.error("the index is damaged; the next start rebuilds it. path=%s", directory)
    try:
        fs.replace(directory / DAMAGED_NAME, b"")
    except UnavailableError as error:
        logger.warning("cannot note that the index is damaged. reason=%s", error)


def open_store_index(
    fs: FileSystem, directory: Path, open_index: Callable[[Path], PageIndex]
) -> PageIndex:
    """Open the index of a store; one that cannot be opened is replaced by an empty one.

    Raises:
        UnavailableError: the store's directory is gone, or the disk fails.
    """
    # Called also while serving: a directory that was deleted meanwhile must not come back as an
    # index alone, which the next start would refuse as somebody else's.
    if fs.read(directory / FACTS_NAME) is None:
        raise UnavailableError(f"the store was deleted while it was open. path={directory}")
    path = directory / INDEX_NAME
    try:
        return open_index(path)
    except CorruptionError as error:
        logger.warning("the index is damaged; it will be rebuilt from the log. reason=%s", error)
        fs.remove_tree(path)
        return open_index(path)
