"""The only module that opens, syncs, punches, renames or deletes a file.

`FileSystem` and `File` are the seam under the tensor log: `LocalFileSystem` is the real one, the
tests bring one that forgets what was not synced. Every failure of the real one is an
`UnavailableError` that keeps its errno.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from sglang_lsm.errors import ConfigError, UnavailableError

IOV_MAX = 1024
DRAFT_SUFFIX = ".new"
"""Ends the name under which a small file is written before it replaces the old one."""
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 0x01, 0x02
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

_CACHESTAT = 451
"""The system call has one number on all architectures, and no function in the C library."""


class _CacheRange(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("num_bytes", ctypes.c_uint64))


class _CacheStat(ctypes.Structure):
    _fields_ = (
        ("num_cached", ctypes.c_uint64),
        ("num_dirty", ctypes.c_uint64),
        ("num_writeback", ctypes.c_uint64),
        ("num_evicted", ctypes.c_uint64),
        ("num_recently_evicted", ctypes.c_uint64),
    )


class File(Protocol):
    """One open file. Thread-safe; positions are always given, there is no cursor."""

    def pwritev(self, buffers: Sequence[memoryview | bytes], offset: int) -> None:
        """Write all of `buffers` at `offset`."""

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> int:
        """Fill `buffers` from `offset`; return the bytes read, fewer only at the file's end."""

    def sync(self) -> None:
        """Make the content durable."""

    def allocate(self, offset: int, num_bytes: int) -> None:
        """Reserve a range, holes in it included, so that writing there cannot run out of space."""

    def punch(self, offset: int, num_bytes: int) -> bool:
        """Give a range's blocks back; return False where the file system cannot."""

    def has_data(self, offset: int) -> bool:
        """Return whether `offset` lies in written or allocated bytes rather than in a hole.

        True where the file system cannot tell.
        """

    def truncate(self, num_bytes: int) -> None:
        """Cut the file to `num_bytes`."""

    def drop_cache(self) -> None:
        """Ask that the page cache forget this file (clean pages only)."""

    def cached_bytes(self, offset: int, num_bytes: int) -> int | None:
        """Return how much of a range is in the page cache, rounded up to whole blocks of it.

        None where the system cannot tell. Never reads from the disk.
        """

    def again(self) -> "File":
        """Open the same file once more, to read it; works for one that was deleted, too."""

    def size_bytes(self) -> int:
        """Length of the file."""

    def allocated_bytes(self) -> int:
        """Bytes of disk the file holds, holes not counted."""

    def close(self) -> None:
        """Close; no other call may follow."""


class Lock(Protocol):
    """An exclusive claim on a directory, given up on `release` or when the process ends."""

    def release(self) -> None:
        """Give the claim up."""


class FileSystem(Protocol):
    """The calls of a file system that the store makes. Thread-safe."""

    def make_dir(self, path: Path) -> None:
        """Create a directory and its parents; one that exists is fine."""

    def list_dir(self, path: Path) -> list[str]:
        """Return the names in a directory, sorted."""

    def open(
        self, path: Path, *, create: bool = False, direct: bool = False, read_only: bool = False
    ) -> File:
        """Open for reading and writing. `create` fails if the file exists; `direct` is O_DIRECT."""

    def unlink(self, path: Path) -> None:
        """Delete a file; one that is gone already is fine."""

    def remove_tree(self, path: Path) -> None:
        """Delete a directory and all that is in it; one that is gone already is fine."""

    def read(self, path: Path) -> bytes | None:
        """Return the content of a small file, or None if there is none."""

    def replace(self, path: Path, content: bytes) -> None:
        """Write a small file so that a crash leaves the old or the new content."""

    def sync_dir(self, path: Path) -> None:
        """Make names created or deleted in a directory durable."""

    def free_bytes(self, path: Path) -> int:
        """Space that an unprivileged writer may still take."""

    def lock(self, path: Path) -> Lock:
        """Claim `path`, a file; raises ConfigError when another process holds it."""


@contextmanager
def _unavailable(what: str, path: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{what}: {os.strerror(error.errno) if error.errno else error}. path={path}"
        raise UnavailableError(error.errno, message) from error


class LocalFile:
    """A file of the operating system."""

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        with _unavailable("cannot open", path):
            self._fd = os.open(path, flags | os.O_CLOEXEC, 0o644)

    def pwritev(self, buffers: Sequence[memoryview | bytes], offset: int) -> None:
        """Write all of `buffers` at `offset`."""
        with _unavailable("cannot write", self._path):
            for at in range(0, len(buffers), IOV_MAX):
                part = buffers[at : at + IOV_MAX]
                num_bytes = sum(map(len, part))
                num_written = os.pwritev(self._fd, part, offset)
                if num_written < num_bytes:
                    self._write_rest(part, num_written, offset)
                offset += num_bytes

    def _write_rest(
        self, buffers: Sequence[memoryview | bytes], num_written: int, offset: int
    ) -> None:
        # A short write is how a full disk first shows: the next call tells the reason.
        rest = memoryview(b"".join(buffers))[num_written:]
        offset += num_written
        while rest:
            num_written = os.pwrite(self._fd, rest, offset)
            if num_written == 0:
                raise OSError(errno.ENOSPC, "write made no progress")
            rest, offset = rest[num_written:], offset + num_written

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> int:
        """Fill `buffers` from `offset`; return the bytes read, fewer only at the file's end."""
        total = 0
        with _unavailable("cannot read", self._path):
            for at in range(0, len(buffers), IOV_MAX):
                part = list(buffers[at : at + IOV_MAX])
                while part:
                    num_read = os.preadv(self._fd, part, offset)
                    if num_read == 0:
                        return total
                    total, offset = total + num_read, offset + num_read
                    part = _behind(part, num_read)
        return total

    def sync(self) -> None:
        """Make the content durable."""
        with _unavailable("cannot sync", self._path):
            os.fdatasync(self._fd)  # noqa: TID251 - this is the module the rule points to

    def allocate(self, offset: int, num_bytes: int) -> None:
        """Reserve a range, holes in it included, so that writing there cannot run out of space."""
        with _unavailable("cannot allocate", self._path):
            os.posix_fallocate(self._fd, offset, num_bytes)

    def punch(self, offset: int, num_bytes: int) -> bool:
        """Give a range's blocks back; return False where the file system cannot."""
        mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
        if _libc.fallocate(self._fd, mode, offset, num_bytes) == 0:
            return True
        code = ctypes.get_errno()
        if code in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise UnavailableError(code, f"cannot punch a hole: {os.strerror(code)}. path={self._path}")

    def has_data(self, offset: int) -> bool:
        """Return whether `offset` lies in written or allocated bytes rather than in a hole.

        True where the file system cannot tell.
        """
        try:
            return os.lseek(self._fd, offset, os.SEEK_DATA) == offset
        except OSError as error:
            if error.errno == errno.ENXIO:
                return False
            if error.errno == errno.EINVAL:
                return True
            raise UnavailableError(error.errno, f"cannot seek. path={self._path}") from error

    def truncate(self, num_bytes: int) -> None:
        """Cut the file to `num_bytes`."""
        with _unavailable("cannot truncate", self._path):
            os.ftruncate(self._fd, num_bytes)

    def drop_cache(self) -> None:
        """Ask that the page cache forget this file (clean pages only)."""
        with _unavailable("cannot advise", self._path):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def cached_bytes(self, offset: int, num_bytes: int) -> int | None:
        """Return how much of a range is in the page cache, or None. Some us (Linux 6.5)."""
        # preadv2 with RWF_NOWAIT would tell, too, but starts to read what is not there.
        extent, found = _CacheRange(offset, num_bytes), _CacheStat()
        if _libc.syscall(_CACHESTAT, self._fd, ctypes.byref(extent), ctypes.byref(found), 0) != 0:
            return None
        return int(found.num_cached) * mmap.PAGESIZE

    def again(self) -> "LocalFile":
        """Open the same file once more, to read it: with a read-ahead of its own."""
        return LocalFile(Path(f"/proc/self/fd/{self._fd}"), os.O_RDONLY)

    def size_bytes(self) -> int:
        """Length of the file."""
        with _unavailable("cannot stat", self._path):
            return os.fstat(self._fd).st_size

    def allocated_bytes(self) -> int:
        """Bytes of disk the file holds, holes not counted."""
        with _unavailable("cannot stat", self._path):
            return os.fstat(self._fd).st_blocks * 512

    def close(self) -> None:
        """Close; no other call may follow."""
        with _unavailable("cannot close", self._path):
            os.close(self._fd)


def _behind(buffers: list[memoryview], num_bytes: int) -> list[memoryview]:
    """Return what is left of `buffers` after their first `num_bytes`."""
    if num_bytes == sum(map(len, buffers)):
        return []
    for i, buffer in enumerate(buffers):
        if num_bytes < len(buffer):
            return [buffer[num_bytes:], *buffers[i + 1 :]]
        num_bytes -= len(buffer)
    return []


class LocalLock:
    """`flock` on a file: the kernel gives it back when the process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        with _unavailable("cannot open", path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise UnavailableError(error.errno, f"cannot lock. path={path}") from error
            raise ConfigError(
                "the store is in use by another process; give each server a directory of its own. "
                f"path={path.parent}"
            ) from None

    def release(self) -> None:
        """Give the claim up."""
        os.close(self._fd)


class LocalFileSystem:
    """The operating system's files."""

    def make_dir(self, path: Path) -> None:
        """Create a directory and its parents; one that exists is fine."""
        with _unavailable("cannot create the directory", path):
            path.mkdir(parents=True, exist_ok=True)

    def list_dir(self, path: Path) -> list[str]:
        """Return the names in a directory, sorted."""
        with _unavailable("cannot list", path):
            return sorted(entry.name for entry in path.iterdir())

    def open(
        self, path: Path, *, create: bool = False, direct: bool = False, read_only: bool = False
    ) -> LocalFile:
        """Open for reading and writing. `create` fails if the file exists; `direct` is O_DIRECT."""
        flags = os.O_RDONLY if read_only else os.O_RDWR
        flags |= os.O_CREAT | os.O_EXCL if create else 0
        return LocalFile(path, flags | (os.O_DIRECT if direct else 0))

    def unlink(self, path: Path) -> None:
        """Delete a file; one that is gone already is fine."""
        with _unavailable("cannot delete", path):
            path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        """Delete a directory and all that is in it; one that is gone already is fine."""
        with _unavailable("cannot delete", path):
            if path.exists():
                shutil.rmtree(path)

    def read(self, path: Path) -> bytes | None:
        """Return the content of a small file, or None if there is none."""
        with _unavailable("cannot read", path):
            return path.read_bytes() if path.exists() else None

    def replace(self, path: Path, content: bytes) -> None:
        """Write a small file so that a crash leaves the old or the new content."""
        draft = path.with_name(path.name + DRAFT_SUFFIX)
        with _unavailable("cannot write", path):
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fdatasync(fd)  # noqa: TID251 - this is the module the rule points to
            draft.replace(path)
        self.sync_dir(path.parent)

    def sync_dir(self, path: Path) -> None:
        """Make names created or deleted in a directory durable."""
        with _unavailable("cannot sync the directory", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)  # noqa: TID251 - this is the module the rule points to
            finally:
                os.close(fd)

    def free_bytes(self, path: Path) -> int:
        """Space that an unprivileged writer may still take."""
        with _unavailable("cannot stat the file system", path):
            facts = os.statvfs(path)
            return facts.f_bavail * facts.f_frsize

    def lock(self, path: Path) -> LocalLock:
        """Claim `path`, a file; raises ConfigError when another process holds it."""
        return LocalLock(path)


def resident_bytes() -> int:
    """Return the memory that this process holds now, as the kernel counts it."""
    with Path("/proc/self/statm").open("rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def available_memory_bytes() -> int:
    """Return the memory that new page-cache pages could take without swapping.

    A memory limit on this process's control group counts; what the group's processes hold for
    themselves is taken off.
    """
    bounds = [_machine_memory_bytes()]
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            bounds += _group_memory_bytes(controllers, place.lstrip("/"))
    return max(0, min(bounds))


def left_over_cpu_s() -> list[float]:
    """Return seconds of CPU that were left over since some moment, by each bound that there is.

    One of the machine: what the CPUs that this process may run on were idle. One of a control
    group that limits it: what it was given and did not use. How many could have been used is what
    the least of them has grown by; an empty list where the kernel does not tell.
    """
    with suppress(OSError, ValueError):
        return [_machine_idle_s(), *_group_left_over_s()]
    return []


def _machine_idle_s() -> float:
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *counts = line.split()
        if name in ours:
            # user, nice, system, idle, iowait, ...
            ticks += int(counts[3]) + int(counts[4])
    return ticks / os.sysconf("SC_CLK_TCK")


def _group_left_over_s() -> list[float]:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, place = line.split(":", 2)
        root = Path("/sys/fs/cgroup")
        # Inside a container the group's own folder is the mount itself.
        for group in (root / place.lstrip("/"), root) if controllers == "" else ():
            if (group / "cpu.max").exists():
                limit, period = (group / "cpu.max").read_text().split()
                stat = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
                if limit == "max":
                    return []
                given_s = time.monotonic() * int(limit) / int(period)
                return [given_s - int(stat["usage_usec"]) / 1e6]
    return []


def _group_memory_bytes(controllers: str, place: str) -> list[int]:
    """Return what a control group has left of its limit, if it is one that limits memory."""
    if controllers == "":
        folder, limit, own = Path("/sys/fs/cgroup"), "memory.max", "anon"
    elif "memory" in controllers.split(","):
        folder, limit, own = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "total_rss"
    else:
        return []
    # Inside a container the group's own folder is the mount itself.
    for group in (folder / place, folder):
        if (group / limit).exists():
            text = (group / limit).read_text().strip()
            if text == "max":
                return []
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return [int(text) - int(stat[own])]
    return []


def _machine_memory_bytes() -> int:
    with _unavailable("cannot read", "/proc/meminfo"):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    raise UnavailableError(errno.ENOENT, "the kernel does not report MemAvailable")
