"""System calls that several rivals share: sync a file system, forget cached pages, count blocks."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_BLOCK_BYTES = 512  # the unit of st_blocks on every Linux file system

_libc = ctypes.CDLL(None, use_errno=True)


def sync_file_system(directory: Path) -> None:
    """Make everything on the file system of `directory` durable, directory entries included.

    For a store of many files this is far cheaper than one fsync a file. It also flushes the dirty
    pages of other processes, so the harness calls it once before a timed phase.

    Raises:
        OSError: the device failed.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(directory))
    finally:
        os.close(descriptor)


def drop_cached_pages(directory: Path) -> None:
    """Ask the kernel to forget the clean page-cache pages of every file under `directory`."""
    for path in files_under(directory):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            # A server evicts meanwhile.
            continue
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def allocated_bytes(directory: Path) -> int:
    """Return the bytes of disk held by the files under `directory`; holes are not counted."""
    num_blocks = 0
    for path in files_under(directory):
        # A server evicts meanwhile.
        with contextlib.suppress(FileNotFoundError):
            num_blocks += path.stat().st_blocks
    return num_blocks * _BLOCK_BYTES


def files_under(directory: Path) -> Iterator[Path]:
    """Yield every regular file under `directory`."""
    for path in directory.rglob("*"):
        if path.is_file():
            yield path
