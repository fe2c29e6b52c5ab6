"""The rows of the TTFT benchmark: one real server each, side by side, asked in turn.

All rows have the same model, page size, device pool and host pool; the rows with a disk tier read
it by the same rule (`wait_complete`). What differs is named by the row.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmark.rivals.disk import drop_cached_pages, sync_file_system
from benchmark.serving import Server, has_gpu, start_all
from benchmark.tiers import disk_flags

PAGE_SIZE = 64
RECOMPUTE, HOST, FILE, LSM, SIM = "recompute", "host", "file", "lsm", "sim"

_HOST = ("--hicache-ratio", "2")
_HICACHE = (
    "--enable-hierarchical-cache",
    *_HOST,
    *("--hicache-io-backend", "kernel" if has_gpu() else "direct"),
    *("--hicache-mem-layout", "page_first" if has_gpu() else "page_first_direct"),
)
# Nothing is moved and nothing waited for: what is left is SGLang's own way of a disk hit.
_NO_IO = '{"interface_v1": 1, "sim_write_gbps": 0, "sim_op_latency_us": 0}'
_PREFETCH = ("--hicache-storage-prefetch-policy", "wait_complete")


@dataclass(frozen=True, slots=True)
class Row:
    """One rival: its name, and the flags that make it."""

    name: str
    flags: Callable[[Path], Sequence[str]]
    """From the directory that the row may fill."""
    has_disk: bool = False
    is_right: bool = True
    """Whether what it loads is what was stored; else its disk hits are a bound, not answers."""

    def environment(self, directory: Path) -> dict[str, str]:
        """Return what has to be in the environment: the file backend has no flag for its folder."""
        return {"SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR": str(directory)}


def lsm_flags(policy: str) -> Callable[[Path], Sequence[str]]:
    """Return what gives a row our disk tier, from the directory that it may fill."""
    return lambda directory: (
        *("--kv-storage", "lsm", "--kv-storage-path", str(directory)),
        *("--kv-storage-size", "24GB", "--kv-storage-write", policy),
        *_HOST,
        *_PREFETCH,
    )


ROWS = (
    Row(RECOMPUTE, lambda _: ("--disable-radix-cache",)),
    Row(HOST, lambda _: _HICACHE),
    Row(
        FILE, lambda _: (*_HICACHE, "--hicache-storage-backend", "file", *_PREFETCH), has_disk=True
    ),
    Row(
        SIM,
        lambda _: (
            *(*_HICACHE, "--hicache-storage-backend", "sim"),
            *("--hicache-storage-backend-extra-config", _NO_IO, *_PREFETCH),
        ),
        has_disk=True,
        is_right=False,
    ),
    # Written as the file backend does: what is measured is reading, so all has to be on disk.
    Row(LSM, lsm_flags("through"), has_disk=True),
)


def tier_row(name: str, flags: Sequence[str], *, budget_bytes: int) -> Row:
    """Return one of `tiers.BACKENDS` as a row that reads all it finds.

    Args:
        name: one of BACKENDS.
        flags: of its pools; those of its tier come after them.
        budget_bytes: the most on disk.
    """

    def all_flags(directory: Path) -> Sequence[str]:
        tier = disk_flags(name, directory, budget_bytes=budget_bytes, wait_complete=True)
        return (*flags, *tier)

    has_disk = name not in (RECOMPUTE, HOST)
    return Row(name, all_flags, has_disk=has_disk, is_right=name != SIM)


class RunningRow:
    """A row whose server is up."""

    def __init__(self, row: Row, server: Server, directory: Path) -> None:
        self.row, self.server = row, server
        self._directory = directory
        self._num_backed_up = 0

    def flush(self, *, num_tokens: int, drop_page_cache: bool) -> None:
        """Wait until the disk has the last prompt, then empty device and host.

        Args:
            num_tokens: tokens of full pages put since the last call.
            drop_page_cache: make the next read come from the disk.
        """
        self._num_backed_up += num_tokens
        if self.row.has_disk:
            self.server.wait_backed_up(self._num_backed_up)
        self.server.flush_cache()
        if drop_page_cache:
            sync_file_system(self._directory)
            drop_cached_pages(self._directory)


def start_rows(
    model: Path,
    directory: Path,
    *,
    rows: Sequence[Row] = ROWS,
    pool_tokens: int,
    stack: ExitStack,
    progress: Callable[[str], None],
) -> list[RunningRow]:
    """Start a server a row; `stack` stops them.

    Args:
        directory: each row gets a folder in it for its data and a log beside it.
        pool_tokens: tokens of the device pool; the host pool has twice as many.

    Raises:
        ServerError: one did not start.
    """
    flags = ("--page-size", str(PAGE_SIZE), "--max-total-tokens", str(pool_tokens))
    if not has_gpu():
        flags += ("--dtype", "float32")

    def start(row: Row) -> Server:
        data = directory / row.name
        data.mkdir(parents=True)
        progress(f"starting {row.name}")
        log, env = directory / f"{row.name}.log", row.environment(data)
        return Server.start(model, [*flags, *row.flags(data)], log=log, env=env)

    servers = start_all([partial(start, row) for row in rows], stack)
    return [
        RunningRow(row, server, directory / row.name)
        for row, server in zip(rows, servers, strict=True)
    ]
