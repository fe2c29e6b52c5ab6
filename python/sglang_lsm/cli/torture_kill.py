"""Torture by kill -9: a process that writes is killed again and again, and its store reopened.

What it acknowledged must be read back, right: the kernel has it, whatever happens to the process.
"""

import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from sglang_lsm.cli.torture import chain, fingerprint, num_wrong, pages_of, require_no_store
from sglang_lsm.config import MIB, LogConfig, StoreConfig
from sglang_lsm.errors import StoreError
from sglang_lsm.pages import NamespaceId, PagePath
from sglang_lsm.store import Store

PAGES_PER_PATH, MAX_ACKNOWLEDGED = 3, 100
CONFIG = StoreConfig(quota_bytes=4096 * MIB, log=LogConfig(segment_bytes=4 * MIB))
"""Roomy: what is missing was lost, not evicted."""


@dataclass(slots=True)
class KillReport:
    """What came out."""

    seed: int
    num_kills: int = 0
    num_acknowledged: int = 0
    """Pages whose put had returned before a kill."""
    num_lost: int = 0
    """Of them, pages that were not found afterwards."""
    num_wrong: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether the store did what it owes."""
        return not (self.num_lost or self.num_wrong or self.problems)


def path_of(namespace: NamespaceId, number: int) -> PagePath:
    """Return the path that the writer puts as its n-th."""
    return PagePath(namespace, chain([f"{number} {i}" for i in range(PAGES_PER_PATH)]))


def torture_by_kill(directory: Path, *, num_kills: int, seed: int) -> KillReport:
    """Kill a writer `num_kills` times at random moments, and look each time at all it wrote.

    Raises:
        ConfigError: there is a store already, or the directory holds something else.
        StoreError: the store cannot be opened after a kill.
    """
    require_no_store(directory)
    rng, report = random.Random(seed), KillReport(seed)
    acknowledged: list[int] = []
    for cycle in range(num_kills):
        acknowledged += _write_until_killed(directory, (cycle + 1) * 1_000_000, rng)
        report.num_kills += 1
        _check(directory, acknowledged, report)
    report.num_acknowledged = len(acknowledged) * PAGES_PER_PATH
    return report


def _write_until_killed(directory: Path, first: int, rng: random.Random) -> list[int]:
    command = [sys.executable, "-m", __name__, str(directory), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(rng.randint(1, MAX_ACKNOWLEDGED))]
        # It goes on writing while these bytes are waited for: killed in the middle of a put.
        os.read(writer.stdout.fileno(), rng.randint(1, 5))
        writer.kill()
    return [int(line) for line in lines if line]


def _check(directory: Path, acknowledged: list[int], report: KillReport) -> None:
    store = Store.open(directory, CONFIG)
    try:
        namespace = fingerprint().namespace
        found = [num_wrong(store, path_of(namespace, number)) for number in acknowledged]
        report.num_lost += sum(PAGES_PER_PATH - num_found for num_found, _ in found)
        report.num_wrong += sum(wrong for _, wrong in found)
        stats = store.stats()
        if stats.pages_damaged:
            report.problems.append(f"pages did not match their checksum: {stats.pages_damaged}")
    except StoreError as error:
        report.problems.append(repr(error))
    finally:
        store.close()


def _write(directory: Path, first: int) -> None:
    """Put paths and say so, until killed."""
    store = Store.open(directory, CONFIG)
    namespace = store.register(fingerprint())
    for number in count(first):
        path = path_of(namespace, number)
        store.put_batch(path, pages_of(path))
        print(number, flush=True)


if __name__ == "__main__":
    _write(Path(sys.argv[1]), int(sys.argv[2]))
