"""A memory cgroup for sets larger than the page cache, whose pages count against its limit."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class MemoryLimitUnavailableError(Exception):
    """No memory cgroup can be made here; the message says why."""


class MemoryLimit:
    """A child of this process's memory cgroup (version 1), empty until a process enters it.

    What a process allocated before it entered stays charged where it was, so only what it touches
    inside, its page cache above all, has to fit.

    Raises:
        MemoryLimitUnavailableError: no version 1 memory controller, or not permitted.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._parent = _own_group()
        self.group = self._parent / f"benchmark-{os.getpid()}"
        try:
            self.group.mkdir()
        except OSError as error:
            raise MemoryLimitUnavailableError(f"cannot make a memory cgroup: {error}") from error
        try:
            (self.group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        except OSError as error:
            self.group.rmdir()
            raise MemoryLimitUnavailableError(f"cannot limit a memory cgroup: {error}") from error

    def remove(self) -> None:
        """Delete the group; every process must have left it."""
        self.group.rmdir()


@contextmanager
def inside(group: Path | None) -> Iterator[None]:
    """Run this whole process inside `group`, then move it back; None changes nothing."""
    if group is None:
        yield
        return
    _enter(group)
    try:
        yield
    finally:
        _enter(group.parent)


def _enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _own_group() -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, place = line.split(":", 2)
        if "memory" in controllers.split(","):
            group = Path("/sys/fs/cgroup/memory") / place.lstrip("/")
            if group.is_dir():
                return group
            raise MemoryLimitUnavailableError(f"the memory cgroup is not visible. group={group}")
    raise MemoryLimitUnavailableError("no memory controller of cgroup version 1 on this machine")
