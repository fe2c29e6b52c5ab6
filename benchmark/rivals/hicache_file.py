"""SGLang's file backend, the real class: one file a page, written aside and renamed."""

import os
from collections.abc import Sequence

from sglang_lsm.pages import PageBuffer, PagePath

from benchmark.rivals.disk import allocated_bytes, drop_cached_pages, sync_file_system
from benchmark.rivals.interface import RivalUnavailableError, Space


class HiCacheFileRival:
    """`HiCacheFile` driven through `set` and `get`, as its zero-copy-less v1 path drives it.

    Args:
        bounded: with its LRU evictor (a cap it never reaches here) and its metadata cache.
    """

    def __init__(self, space: Space, *, bounded: bool) -> None:
        try:
            import torch
            from sglang.srt.mem_cache.hicache_storage import HiCacheFile, HiCacheStorageConfig
        except ImportError as error:
            raise RivalUnavailableError(f"sglang does not import: {error}") from error
        # The environment would override the directory that is measured.
        os.environ.pop("SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR", None)
        extra: dict[str, object] = {"file_storage_path": str(space.directory)}
        if bounded:
            cap_bytes = str(2 * space.payload_bytes + (1 << 30))
            extra |= {"max_size": cap_bytes, "enable_metadata_cache": True, "metadata_ttl": 3600}
        config = HiCacheStorageConfig(
            tp_rank=0,
            tp_size=1,
            pp_rank=0,
            pp_size=1,
            attn_cp_rank=0,
            attn_cp_size=1,
            is_mla_model=False,
            enable_storage_metrics=False,
            is_page_first_layout=True,
            model_name="model",
            extra_config=extra,
        )
        self._space = space
        self._torch = torch
        self._file = HiCacheFile(config)
        # A view as a tensor costs under 1 us, but its server holds tensors already; callers reuse
        # their memory, so each view is wrapped once. The view is kept: its id names it.
        self._tensors: dict[int, tuple[memoryview, object]] = {}

    def put(self, path: PagePath, pages: Sequence[PageBuffer]) -> None:
        """Write one file a page."""
        for page_hash, page in zip(path.hashes[path.start :], pages, strict=True):
            if not self._file.set(page_hash.hex(), self._tensor(page[0])):
                raise OSError(f"HiCacheFile refused a page. page={page_hash.hex()}")

    def sync(self) -> None:
        """Sync the file system: it has no sync of its own."""
        sync_file_system(self._space.directory)

    def get(self, path: PagePath, out: Sequence[PageBuffer]) -> int:
        """Read one file a page until one is missing."""
        for num_pages, (page_hash, page) in enumerate(
            zip(path.hashes[path.start :], out, strict=True)
        ):
            if self._file.get(page_hash.hex(), self._tensor(page[0])) is None:
                return num_pages
        return len(out)

    def drop_page_cache(self) -> None:
        """Forget the files' cached pages; names and inodes stay cached, in its favour."""
        drop_cached_pages(self._space.directory)

    def disk_bytes(self) -> int:
        """Blocks of all files; inodes and directory blocks not counted."""
        return allocated_bytes(self._space.directory)

    def delete(self, path: PagePath) -> None:
        """Unlink the pages' files, which is what its evictor does."""
        for page_hash in path.hashes[path.start :]:
            (self._space.directory / f"{page_hash.hex()}{self._file.config_suffix}.bin").unlink()

    def reclaim(self) -> None:
        """Nothing is left to do: an unlinked file's blocks are free."""

    def close(self) -> None:
        """Let go of the wrapped memory."""
        self._tensors.clear()

    def _tensor(self, view: memoryview):
        known = self._tensors.get(id(view))
        if known is None:
            known = (view, self._torch.frombuffer(view, dtype=self._torch.uint8))
            self._tensors[id(view)] = known
        return known[1]
