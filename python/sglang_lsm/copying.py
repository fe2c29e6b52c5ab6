"""Copying stored pages to the end of the log, encoded on the way where that is wanted.

A page is verified when it is read for it: a damaged one is never copied. The old places are given
back once the new ones are durable and the index names them.
"""

import json
import logging
import mmap
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sglang_lsm import codec, format
from sglang_lsm.catalog import Catalog
from sglang_lsm.directory import META_FINGERPRINT
from sglang_lsm.index.page_index import PageIndex
from sglang_lsm.observability.counters import Counters
from sglang_lsm.pages import NAMESPACE_BYTES, Location
from sglang_lsm.tensorlog.encoded_pages import is_intact
from sglang_lsm.tensorlog.log import TensorLog
from sglang_lsm.tensorlog.new_batch import Seal

logger = logging.getLogger(__name__)

_COPY_BYTES = 64 << 20
"""Memory that copying takes at most, unless a single page is larger."""

StoredPages = Sequence[tuple[bytes, Location]]
"""Key and place of each."""


class Shrinkage(NamedTuple):
    """What encoding does to some pages, in memory alone."""

    num_bytes: int
    """Of the pages as they are, in whole blocks; so are those saved."""
    saved_bytes: int
    encode_cpu_s: float
    """Reading and verifying them included."""
    decoded_bytes: int
    """Of those that shrank, decoded."""
    decode_cpu_s: float


class _Form(NamedTuple):
    """A page as it is going to lie."""

    key: bytes
    old: Location
    stored: memoryview
    seal: Seal


class Copier:
    """Moves pages within the log. Thread-safe."""

    def __init__(
        self, index: PageIndex, log: TensorLog, catalog: Catalog, counters: Counters
    ) -> None:
        self._index, self._log, self._catalog, self._counters = index, log, catalog, counters
        self._widths: dict[bytes, int] = {}

    def copy(self, pages: StoredPages, *, encodes: bool = False) -> int:
        """Copy pages to the end of the log in their order; return how many bytes they took.

        In parts that bound the memory. The old places are given back.

        Args:
            encodes: those that shrink by it; pages that are encoded stay so either way.

        Raises:
            UnavailableError, CorruptionError: the index or the log failed; nothing is lost.
        """
        return sum(
            self._write(self._all_encoded(part) if encodes else part) for part in self._parts(pages)
        )

    def encode(self, pages: StoredPages) -> int:
        """Copy those pages encoded that shrink by it, leave the others; return the bytes read.

        Raises as `copy`.
        """
        num_bytes, started_s = 0, time.thread_time()
        for part in self._parts(pages):
            num_bytes += sum(page.old.length for page in part)
            forms = [self._encoded(page) for page in part if not page.old.flags]
            self._counters.add(bytes_to_encode=_num_bytes(forms))
            self._write([form for form in forms if form.seal.flags])
            left = [form for form in forms if not form.seal.flags]
            left += [page for page in part if page.old.flags]
            self._catalog.settle([page.key for page in left], [page.old for page in left])
        self._counters.add(encode_cpu_s=time.thread_time() - started_s)
        return num_bytes

    def try_encoding(self, pages: StoredPages) -> Shrinkage:
        """Encode pages and decode them again; nothing is written, and none is noted as tried.

        Raises as `copy`.
        """
        found, started_s = Shrinkage(0, 0, 0.0, 0, 0.0), time.thread_time()
        for part in self._parts(pages):
            for page in part:
                if page.old.flags:
                    continue
                form, length = self._encoded(page), page.old.length
                found = found._replace(num_bytes=found.num_bytes + format.padded(length))
                if form.seal.flags:
                    out, decoding_s = memoryview(bytearray(length)), time.thread_time()
                    codec.decode(form.stored, [out])
                    found = found._replace(
                        saved_bytes=found.saved_bytes + format.padded(length) - len(form.stored),
                        decoded_bytes=found.decoded_bytes + length,
                        decode_cpu_s=found.decode_cpu_s + time.thread_time() - decoding_s,
                    )
        cpu_s = time.thread_time() - started_s
        return found._replace(encode_cpu_s=cpu_s - found.decode_cpu_s)

    def _parts(self, pages: StoredPages) -> Iterator[list[_Form]]:
        part, part_bytes = list[tuple[bytes, Location]](), 0
        for page in pages:
            if part and part_bytes + page[1].length > _COPY_BYTES:
                yield self._read(part)
                part, part_bytes = [], 0
            part.append(page)
            part_bytes += page[1].length
        if part:
            yield self._read(part)

    def _read(self, part: StoredPages) -> list[_Form]:
        """Return those pages that are intact, as they lie."""
        locations = [at for _, at in part]
        memory = _bounce_pages(locations)
        came = self._log.read_stored(locations, [[page] for page in memory])
        return [
            _Form(key, at, page, Seal(at.checksum, at.flags))
            for (key, at), page, ok in zip(part, memory, came, strict=True)
            if ok and is_intact(key, at, page)
        ]

    def _all_encoded(self, part: Sequence[_Form]) -> list[_Form]:
        """Return pages that are copied anyway, encoded where that makes them smaller."""
        started_s = time.thread_time()
        forms = [self._encoded(page) for page in part]
        self._counters.add(
            bytes_to_encode=_num_bytes(page for page in part if not page.old.flags),
            encode_cpu_s=time.thread_time() - started_s,
        )
        return forms

    def _encoded(self, page: _Form) -> _Form:
        """Return a page encoded, in the same memory, or as it is."""
        if page.seal.flags:
            return page
        encoded = codec.encode(page.stored, self._width(page.key))
        if encoded is None:
            return page
        stored = page.stored[: format.padded(len(encoded))]
        stored[:] = encoded.ljust(len(stored), b"\0")
        return page._replace(stored=stored, seal=Seal(page.old.checksum, format.ENCODED))

    def _write(self, forms: Sequence[_Form]) -> int:
        if not forms:
            return 0
        keys, old = [form.key for form in forms], [form.old for form in forms]
        with self._catalog.storing():
            new = self._log.append(
                keys,
                [at.hash_tail for at in old],
                [[form.stored] for form in forms],
                seals=[form.seal for form in forms],
            )
            assert new is not None, "only a caller that can withdraw gets None"
            # The old places may be durable already, and are given back.
            self._log.sync()
            self._catalog.relocate(keys, old, new)
        fresh = [i for i, form in enumerate(forms) if form.seal.flags and not form.old.flags]
        if fresh:
            self._catalog.settle([keys[i] for i in fresh], [new[i] for i in fresh])
            saved = sum(format.padded(old[i].length) - new[i].length for i in fresh)
            self._counters.add(pages_encoded=len(fresh), bytes_saved=saved)
        num_bytes = sum(at.length for at in old)
        logger.debug("copied pages. pages=%d bytes=%d", len(old), num_bytes)
        return num_bytes

    def _width(self, key: bytes) -> int:
        """Return the bytes of an element in the pages of a key's namespace."""
        namespace = key[:NAMESPACE_BYTES]
        if namespace not in self._widths:
            facts = self._index.get_meta(META_FINGERPRINT + namespace)
            kv_dtype = json.loads(facts)["kv_dtype"] if facts else ""
            self._widths[namespace] = codec.element_bytes(kv_dtype)
        return self._widths[namespace]


def _num_bytes(forms: Iterable[_Form]) -> int:
    """Return what pages take where they lie, in whole blocks."""
    return sum(format.padded(form.old.length) for form in forms)


def _bounce_pages(locations: Sequence[Location]) -> list[memoryview]:
    """Return memory for pages, each on a block of its own, as O_DIRECT wants it."""
    total = sum(format.padded(at.length) for at in locations)
    memory = memoryview(mmap.mmap(-1, max(total, 1)))
    pages, start = list[memoryview](), 0
    for at in locations:
        pages.append(memory[start : start + at.length])
        start += format.padded(at.length)
    return pages
