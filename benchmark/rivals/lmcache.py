"""LMCache's native storage, loaded straight from its wheels, whose package does not import here.

Unpack the wheels of `PINNED` (pip download --no-deps) into the git-ignored `.cache/lmcache`, or
name another directory in LMCACHE_DIR. Of its two raw-block parts the compiled device
(`RawBlockDevice`, io_uring) loads and is a rival here; `RawBlockCore`, the Python slot table above
it, does not: `lmcache/__init__.py` drops `device_ops` where no compute backend is installed, and
the import then fails. What stands in for it here, a dict and a bump pointer, is cheaper than the
core's slot headers and JSON checkpoints, so the row is the rival's upper bound.
"""

import os
import select
import sys
import time
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from sglang_lsm.pages import PageBuffer, PagePath

from benchmark.rivals.disk import allocated_bytes, drop_cached_pages, sync_file_system
from benchmark.rivals.interface import RivalUnavailableError, Space

PINNED = ("lmcache==0.5.6", "lmcache-rust-raw-block-io==0.5.7rc2")
_BEGIN_S = 0.1
_DEFAULT_DIRECTORY = Path(__file__).resolve().parents[2] / ".cache" / "lmcache"
_BLOCK_BYTES = 4096


class LmcacheFile:
    """`LMCacheFSClient`: one file a page, moved by C++ worker threads.

    Args:
        direct: its O_DIRECT mode.
        workers: its threads.
    """

    def __init__(self, space: Space, *, direct: bool, workers: int = 4) -> None:
        self._space = space
        module = _load_extension("lmcache", "lmcache_fs")
        self._client = module.LMCacheFSClient(str(space.directory), workers, "", direct, 0)
        self._poll = select.poll()
        self._poll.register(self._client.event_fd(), select.POLLIN)

    def put(self, path: PagePath, pages: Sequence[PageBuffer]) -> None:
        """Submit the batch and wait for it."""
        batch = self._client.submit_batch_set(_names(path), [page[0] for page in pages])
        self._wait(batch)

    def sync(self) -> None:
        """Sync the file system: it has no sync of its own."""
        sync_file_system(self._space.directory)

    def get(self, path: PagePath, out: Sequence[PageBuffer]) -> int:
        """Submit the batch, wait, and count the leading pages that came."""
        batch = self._client.submit_batch_get(_names(path), [page[0] for page in out])
        found = self._wait(batch)
        return next((i for i, ok in enumerate(found) if not ok), len(out))

    def drop_page_cache(self) -> None:
        """Forget the files' cached pages; names and inodes stay cached, in its favour."""
        drop_cached_pages(self._space.directory)

    def disk_bytes(self) -> int:
        """Blocks of all files."""
        return allocated_bytes(self._space.directory)

    def delete(self, path: PagePath) -> None:
        """Unlink the pages' files through its own call."""
        self._wait(self._client.submit_batch_delete(_names(path)))

    def reclaim(self) -> None:
        """Nothing is left to do: an unlinked file's blocks are free."""

    def close(self) -> None:
        """End its threads."""
        # Closed before they have all begun to wait for work, it waits for one of them for ever.
        time.sleep(_BEGIN_S)
        self._client.close()

    def _wait(self, batch: int) -> list[bool]:
        """Return the per-page results of `batch`, the only one in flight.

        A name it refuses completes at once and would look infinitely fast, so `ok` is checked.
        """
        while True:
            self._poll.poll()
            for done, ok, error, results in self._client.drain_completions():
                if done != batch or not ok:
                    raise OSError(f"LMCache failed a batch. ok={ok} error={error!r}")
                return results or []


class LmcacheRawBlock:
    """`RawBlockDevice` with io_uring over one preallocated file, O_DIRECT.

    A regular file stands in for the raw device, which a benchmark may not overwrite.
    """

    def __init__(self, space: Space, *, queue_depth: int = 256) -> None:
        self._space = space
        module = _load_extension("lmcache_rust_raw_block_io", "lmcache_rust_raw_block_io")
        path = space.directory / "device"
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, space.payload_bytes)
        self._file = os.open(path, os.O_RDWR)
        try:
            self._device = module.RawBlockDevice(
                str(path),
                True,
                use_odirect=True,
                alignment=_BLOCK_BYTES,
                io_engine="io_uring",
                iouring_queue_depth=queue_depth,
            )
        except (OSError, RuntimeError) as error:
            os.close(self._file)
            raise RivalUnavailableError(f"io_uring is refused here: {error}") from error
        self._slots: dict[bytes, int] = {}

    def put(self, path: PagePath, pages: Sequence[PageBuffer]) -> None:
        """Write the pages to the next free slots, one submission."""
        size, first = self._space.page_bytes, len(self._slots)
        for slot, page_hash in enumerate(path.hashes[path.start :], first):
            self._slots[page_hash] = slot
        offsets = [(first + i) * size for i in range(len(pages))]
        views = [page[0] for page in pages]
        self._wait(self._device.batched_write(offsets, views, [size] * len(views)))

    def sync(self) -> None:
        """Sync the file; the device has no sync of its own."""
        os.fdatasync(self._file)  # noqa: TID251 a rival does not lean on our code

    def get(self, path: PagePath, out: Sequence[PageBuffer]) -> int:
        """Read the pages with one submission."""
        offsets = []
        for page_hash in path.hashes[path.start :]:
            slot = self._slots.get(page_hash)
            if slot is None:
                break
            offsets.append(slot * self._space.page_bytes)
        if offsets:
            views = [page[0] for page in out[: len(offsets)]]
            lengths = [self._space.page_bytes] * len(offsets)
            self._wait(self._device.batched_read(offsets, views, lengths))
        return len(offsets)

    def drop_page_cache(self) -> None:
        """Do nothing of weight: O_DIRECT leaves no cached page behind."""
        drop_cached_pages(self._space.directory)

    def disk_bytes(self) -> int:
        """Blocks of the file, preallocation included."""
        return allocated_bytes(self._space.directory)

    def close(self) -> None:
        """Drain and close the device."""
        self._device.close()
        os.close(self._file)

    def _wait(self, batch: int) -> None:
        done, errors = self._device.wait_iouring(batch)
        if errors or not all(done):
            raise OSError(f"the raw-block device failed a batch. errors={errors[:1]}")


def _names(path: PagePath) -> list[str]:
    """Its keys have four fields: model, world size, rank, hash."""
    return [f"model@1@0@{page_hash.hex()}" for page_hash in path.hashes[path.start :]]


def _load_extension(package: str, name: str) -> ModuleType:
    """Load one compiled module of an unpacked wheel without its package.

    Raises:
        RivalUnavailableError: the wheel is not there, or the module does not load.
    """
    if name in sys.modules:
        return sys.modules[name]
    directory = Path(os.environ.get("LMCACHE_DIR", _DEFAULT_DIRECTORY)) / package
    file = next((p for s in EXTENSION_SUFFIXES if (p := directory / f"{name}{s}").exists()), None)
    if file is None:
        raise RivalUnavailableError(f"{name} is not unpacked; needs the wheels {' '.join(PINNED)}")
    try:
        import torch  # noqa: F401 the file client links against its libraries

        loader = ExtensionFileLoader(name, str(file))
        spec = spec_from_loader(name, loader)
        if spec is None:
            raise RivalUnavailableError(f"{name} has no import spec")
        module = module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise RivalUnavailableError(f"{name} does not load: {error}") from error
    sys.modules[name] = module
    return module
