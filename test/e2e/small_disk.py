"""A small file system of its own that a test can fill and make read-only; needs root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_BYTES = 64 << 20


def why_not() -> str | None:
    """Return why this process can mount no file system, or None if it can."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return "only root can mount a file system to fill"
    return None


@contextmanager
def mounted(directory: Path) -> Iterator[None]:
    """Keep an empty file system of DISK_BYTES in memory at `directory` inside the block."""
    _run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", directory)
    try:
        yield
    finally:
        _run("umount", directory)


@contextmanager
def full(directory: Path) -> Iterator["Ballast"]:
    """Leave not a byte free on the file system of `directory` when the block begins."""
    ballast = Ballast(directory)
    try:
        ballast.fill()
        yield ballast
    finally:
        ballast.remove()


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Refuse every new, renamed or deleted file below `directory` inside the block.

    What is open for writing stays so, as with a file system that an operator remounts.
    """
    _run("mount", "--bind", directory, directory)
    try:
        _run("mount", "-o", "remount,bind,ro", directory)
        yield
    finally:
        _run("umount", directory)


class Ballast:
    """Files of somebody else that take all the space there is."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: list[Path] = []

    def fill(self) -> None:
        """Take what is free now."""
        facts = os.statvfs(self._directory)
        num_bytes = facts.f_bavail * facts.f_frsize
        if num_bytes == 0:
            return
        file = self._directory / f"ballast-{len(self._files)}"
        self._files.append(file)
        with file.open("wb") as out:
            os.posix_fallocate(out.fileno(), 0, num_bytes)

    def remove(self) -> None:
        """Give all of it back."""
        for file in self._files:
            file.unlink()
        self._files.clear()


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)
