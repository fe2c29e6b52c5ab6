"""A `FileSystem` in memory that loses what was not synced, fills up, fails and stops on demand.

Its model of a power loss is the weakest one POSIX allows: of the writes to a file since its last
sync each may have reached the disk, or not, or torn at a 512-byte sector, in any order; of the
names created and deleted since the last `sync_dir` likewise. A process that dies loses nothing.
Creating a directory is taken to be durable at once.
"""

import errno
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sglang_lsm.errors import ConfigError, UnavailableError

from support.fake_inode import BLOCK_BYTES, Image, Inode

T = TypeVar("T")


class Crash(BaseException):
    """The process ends here. Not an `Exception`: nothing in the engine may outlive it."""


class FakeDisk:
    """The state of one disk, its faults, and the `FileSystem` calls on it.

    Faults are plain attributes: `capacity_bytes`, `foreign_bytes` (taken by others), `failing`
    (names of calls that raise EIO), `unreadable` (blocks of files that raise EIO when read),
    `read_only`, `can_punch`, `direct_works`. `crash_after` counts down with each call that changes
    the disk; at zero, that call and all later ones raise `Crash`.
    """

    def __init__(self, *, capacity_bytes: int = 1 << 40, can_punch: bool = True) -> None:
        self.capacity_bytes, self.can_punch = capacity_bytes, can_punch
        self.foreign_bytes = 0
        self.failing: set[str] = set()
        self.unreadable: set[tuple[Path, int]] = set()
        self.read_only = False
        self.direct_works = True
        self.crash_after: int | None = None
        self.num_changes = 0
        self.boot = 0
        """Counts the processes that had the disk; a handle of an earlier one is dead."""
        self.names: dict[Path, Inode] = {}
        self.durable_names: dict[Path, Inode] = {}
        self.dirs: set[Path] = {Path("/")}
        self.locks: dict[Path, int] = {}
        self.mutex = threading.RLock()

    def kill(self) -> None:
        """End the process that uses the disk: what it wrote stays, its handles are dead."""
        self.boot += 1
        self.crash_after = None
        self.failing.clear()

    def lose_power(self, seed: int) -> None:
        """Forget what was not synced, as far as chance has it."""
        self.kill()
        rng = random.Random(seed)
        names = dict(self.durable_names)
        for path in sorted({*self.names, *self.durable_names}):
            if self.names.get(path) is not self.durable_names.get(path) and rng.random() < 0.5:
                names.pop(path, None)
                if path in self.names:
                    names[path] = self.names[path]
        for inode in {id(i): i for i in names.values()}.values():
            inode.lose_power(rng)
        self.names, self.durable_names = names, dict(names)

    def files(self, pattern: str) -> dict[Path, Inode]:
        """Return the files whose name matches, by path."""
        return {path: node for path, node in sorted(self.names.items()) if path.match(pattern)}

    def used_bytes(self, pattern: str = "*") -> int:
        """Return the bytes that files with a matching name hold on the disk."""
        return sum(len(n.current.blocks) for n in self.files(pattern).values()) * BLOCK_BYTES

    def count_change(self, name: str) -> None:
        """Step towards the crash that is due, if one is."""
        with self.mutex:
            if self.crash_after == 0:
                raise Crash(name)
            self.num_changes += 1
            if self.crash_after is not None:
                self.crash_after -= 1

    @contextmanager
    def call(self, name: str, path: Path, *, changes: bool = False) -> Iterator[None]:
        """Run one call of the file system: one at a time, with the faults that are set."""
        with self.mutex:
            if changes:
                self.count_change(name)
            if name in self.failing:
                raise UnavailableError(errno.EIO, f"{name}: I/O error. path={path}")
            if changes and self.read_only:
                raise UnavailableError(errno.EROFS, f"{name}: read-only. path={path}")
            try:
                yield
            except OSError as error:
                raise UnavailableError(error.errno, f"{name}: {error.strerror}") from None

    def reserve(self, image: Image, blocks: range) -> None:
        """Raise ENOSPC unless the blocks that `image` lacks can still be had."""
        num_new = sum(i not in image.blocks for i in blocks)
        if num_new and num_new * BLOCK_BYTES > self.free_bytes(Path("/")):
            raise OSError(errno.ENOSPC, "no space left")

    def make_dir(self, path: Path) -> None:
        with self.call("make_dir", path):
            self.dirs.update([path, *path.parents])

    def list_dir(self, path: Path) -> list[str]:
        with self.call("list_dir", path):
            inside = [p for p in [*self.names, *self.dirs] if p.parent == path and p != path]
            return sorted(p.name for p in inside)

    def open(
        self, path: Path, *, create: bool = False, direct: bool = False, read_only: bool = False
    ) -> "FakeFile":
        with self.call("open", path, changes=create):
            if create and path in self.names:
                raise OSError(errno.EEXIST, "file exists")
            if direct and not self.direct_works:
                raise OSError(errno.EINVAL, "no O_DIRECT here")
            if create:
                if path.parent not in self.dirs:
                    raise OSError(errno.ENOENT, "no such directory")
                self.names[path] = Inode()
            if path not in self.names:
                raise OSError(errno.ENOENT, "no such file")
            return FakeFile(self, path, self.names[path])

    def unlink(self, path: Path) -> None:
        with self.call("unlink", path, changes=True):
            self.names.pop(path, None)

    def remove_tree(self, path: Path) -> None:
        with self.call("remove_tree", path, changes=True):
            self.names = {p: n for p, n in self.names.items() if path not in p.parents}
            self.dirs = {p for p in self.dirs if path not in (p, *p.parents)}

    def read(self, path: Path) -> bytes | None:
        with self.call("read", path):
            return bytes(self.names[path].current.data) if path in self.names else None

    def replace(self, path: Path, content: bytes) -> None:
        draft = path.with_name(path.name + ".new")
        with self.call("replace", path, changes=True):
            self.names[draft] = node = Inode()
        with self.call("replace", path, changes=True):
            node.apply("write", 0, content)
            node.sync()
        with self.call("replace", path, changes=True):
            self.names[path] = self.names.pop(draft)
        self.sync_dir(path.parent)

    def sync_dir(self, path: Path) -> None:
        with self.call("sync_dir", path, changes=True):
            gone = [p for p in self.durable_names if p.parent == path and p not in self.names]
            for name in gone:
                del self.durable_names[name]
            self.durable_names |= {p: n for p, n in self.names.items() if p.parent == path}

    def free_bytes(self, path: Path) -> int:
        with self.mutex:
            return max(0, self.capacity_bytes - self.foreign_bytes - self.used_bytes())

    def lock(self, path: Path) -> "FakeLock":
        with self.call("lock", path):
            if self.locks.get(path) == self.boot:
                raise ConfigError(f"the store is in use by another process. path={path.parent}")
            self.locks[path] = self.boot
            self.names.setdefault(path, Inode())
            return FakeLock(self, path)


class FakeLock:
    """A claim that ends with its process."""

    def __init__(self, disk: FakeDisk, path: Path) -> None:
        self._disk, self._path, self._boot = disk, path, disk.boot

    def release(self) -> None:
        with self._disk.mutex:
            if self._disk.locks.get(self._path) == self._boot:
                del self._disk.locks[self._path]


class FakeFile:
    """An open file of a `FakeDisk`; of no use after the process that opened it."""

    def __init__(self, disk: FakeDisk, path: Path, inode: Inode) -> None:
        self._disk, self._path, self._inode = disk, path, inode
        self._boot, self._is_open = disk.boot, True

    def pwritev(self, buffers: Sequence[memoryview | bytes], offset: int) -> None:
        content = b"".join(buffers)

        def write() -> None:
            first, last = offset // BLOCK_BYTES, -(-(offset + len(content)) // BLOCK_BYTES)
            self._disk.reserve(self._inode.current, range(first, last))
            self._inode.apply("write", offset, content)

        self._call("pwritev", write, changes=True)

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> int:
        def read() -> int:
            end = -(-(offset + sum(map(len, buffers))) // BLOCK_BYTES)
            for path, block in self._disk.unreadable:
                if path == self._path and offset // BLOCK_BYTES <= block < end:
                    raise OSError(errno.EIO, "unreadable block")
            at = offset
            for buffer in buffers:
                part = self._inode.current.data[at : at + len(buffer)]
                buffer[: len(part)] = part
                at += len(part)
            return at - offset

        return self._call("preadv", read)

    def sync(self) -> None:
        self._call("sync", self._inode.sync, changes=True)

    def allocate(self, offset: int, num_bytes: int) -> None:
        def allocate() -> None:
            end = -(-(offset + num_bytes) // BLOCK_BYTES)
            self._disk.reserve(self._inode.current, range(offset // BLOCK_BYTES, end))
            self._inode.apply("allocate", offset, num_bytes)

        self._call("allocate", allocate, changes=True)

    def punch(self, offset: int, num_bytes: int) -> bool:
        def punch() -> bool:
            if self._disk.can_punch:
                self._inode.apply("punch", offset, num_bytes)
            return self._disk.can_punch

        return self._call("punch", punch, changes=True)

    def has_data(self, offset: int) -> bool:
        return self._call("has_data", lambda: offset // BLOCK_BYTES in self._inode.current.blocks)

    def truncate(self, num_bytes: int) -> None:
        self._call("truncate", lambda: self._inode.apply("truncate", num_bytes), changes=True)

    def drop_cache(self) -> None:
        self._call("drop_cache", lambda: None)

    def cached_bytes(self, offset: int, num_bytes: int) -> int | None:
        return self._call("cached_bytes", lambda: None)

    def again(self) -> "FakeFile":
        return self._call("again", lambda: FakeFile(self._disk, self._path, self._inode))

    def size_bytes(self) -> int:
        return self._call("size_bytes", lambda: len(self._inode.current.data))

    def allocated_bytes(self) -> int:
        return self._call("allocated_bytes", lambda: len(self._inode.current.blocks) * BLOCK_BYTES)

    def close(self) -> None:
        self._call("close", lambda: None)
        self._is_open = False

    def _call(self, name: str, action: Callable[[], T], *, changes: bool = False) -> T:
        with self._disk.call(name, self._path, changes=changes):
            if self._boot != self._disk.boot:
                raise Crash(f"{name} by a process that is dead")
            # A closed descriptor may mean another file by now: never a fault to be survived.
            assert self._is_open, f"{name} on a closed file. path={self._path}"
            return action()
