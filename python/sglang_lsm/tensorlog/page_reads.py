"""Reading the pages of one transfer, each verified as soon as its bytes are there.

What fills the page cache comes in steps, and a page larger than a step is verified step by step,
while its bytes are in the CPU's cache. What is copied out of the page cache comes in one call: with
several threads reading, each further call costs a handover of the interpreter's lock, and that more
than a checksum in a warm cache saves.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import NamedTuple

from sglang_lsm import format
from sglang_lsm.fs import File
from sglang_lsm.pages import Location, PageBuffer
from sglang_lsm.tensorlog.encoded_pages import Verdict, decode_page
from sglang_lsm.tensorlog.scratch import Scratch
from sglang_lsm.tensorlog.segment import ReadWay
from sglang_lsm.tensorlog.transfer import Transfer, page_bytes

STEP_BYTES: dict[ReadWay, int] = {"filling": 128 << 10}
"""Bytes of one system call, where a whole transfer in one is not best: what lets the kernel find
its pace of reading ahead.
"""

Timed = Callable[[], AbstractContextManager[None]]


class ReadRequest(NamedTuple):
    """Pages to read, in the caller's order."""

    keys: Sequence[bytes]
    locations: Sequence[Location]
    out: Sequence[PageBuffer]
    verifies: bool


class PageRow(NamedTuple):
    """The pages of one transfer: neighbours on the disk, and the memory that they are read into."""

    transfer: Transfer
    pages: ReadRequest
    memory: Sequence[PageBuffer]
    """In the order of the disk: the caller's, or for encoded pages our own, in whole blocks."""

    @classmethod
    def of(cls, transfer: Transfer, pages: ReadRequest, scratch: Scratch) -> "PageRow":
        """Find memory for each page; what `scratch` gives holds until it is asked again."""
        memory, own = list[PageBuffer](), None
        for i in transfer.indices:
            at = pages.locations[i]
            if not at.flags:
                memory.append(pages.out[i])
                continue
            if own is None:
                own = scratch.take(transfer.num_bytes)
            start = at.offset - transfer.offset
            memory.append([own[start : start + format.padded(at.length)]])
        return cls(transfer, pages, memory)

    def read(self, file: File, step_bytes: int, timed: Timed) -> Iterator[tuple[int, Verdict]]:
        """Read all pages; yield the index of each, and what became of it, in the disk's order.

        A page that the file ends in is damaged.

        Args:
            step_bytes: about what one system call reads.
            timed: entered around each system call.

        Raises:
            UnavailableError: an I/O error; the pages not yet yielded are unknown.
        """
        if step_bytes < self.transfer.num_bytes:
            yield from self._read_in_steps(file, step_bytes, timed)
        else:
            yield from self._read_at_once(file, timed)

    def _read_at_once(self, file: File, timed: Timed) -> Iterator[tuple[int, Verdict]]:
        locations, pieces = self.pages.locations, list[memoryview]()
        for i, page in zip(self.transfer.indices, self.memory, strict=True):
            pieces += page
            at = locations[i]
            num_padding = -at.length % format.BLOCK_BYTES
            # What is read into our own memory is whole blocks already.
            if num_padding and not at.flags:
                pieces.append(memoryview(bytearray(num_padding)))
        with timed():
            left = file.preadv(pieces, self.transfer.offset)
        for number, i in enumerate(self.transfer.indices):
            length, page = locations[i].length, self.memory[number]
            yield self._verdict(number, page, len(page)) if left >= length else (i, "damaged")
            left -= format.padded(length)

    def _read_in_steps(
        self, file: File, step_bytes: int, timed: Timed
    ) -> Iterator[tuple[int, Verdict]]:
        padding = memoryview(bytearray(format.BLOCK_BYTES))
        pieces, counts = list[memoryview](), list[int]()
        for i, page in zip(self.transfer.indices, self.memory, strict=True):
            before = len(pieces)
            for piece in page:
                pieces += cut(piece, step_bytes)
            counts.append(len(pieces) - before)
            # Every page has some, if empty, so that its pieces can be counted off.
            pieces.append(
                padding[: format.padded(self.pages.locations[i].length) - page_bytes(page)]
            )
        stream = arriving(file, pieces, self.transfer.offset, step_bytes=step_bytes, timed=timed)
        for number, num_pieces in enumerate(counts):
            yield self._verdict(number, islice(stream, num_pieces), num_pieces)
            next(stream, None)

    def _verdict(
        self, number: int, came: Iterable[memoryview], num_pieces: int
    ) -> tuple[int, Verdict]:
        """Take the pieces of a page as they come; return its index and what became of it."""
        i = self.transfer.indices[number]
        at, out = self.pages.locations[i], self.pages.out[i]
        is_encoded = at.flags != 0
        if is_encoded or not self.pages.verifies:
            if sum(1 for _ in came) < num_pieces:
                return i, "damaged"
            if is_encoded:
                verdict = decode_page(at, self.memory[number][0][: at.length], out)
                if verdict != "intact":
                    return i, verdict
                came = out
        matches = not self.pages.verifies or (
            format.page_checksum(self.pages.keys[i], came) == at.checksum
        )
        return i, "intact" if matches else "damaged"


def cut(piece: memoryview, step_bytes: int) -> list[memoryview]:
    """Return a piece in parts of at most `step_bytes`."""
    if len(piece) <= step_bytes:
        return [piece]
    return [piece[at : at + step_bytes] for at in range(0, len(piece), step_bytes)]


def arriving(
    file: File, pieces: Sequence[memoryview], offset: int, *, step_bytes: int, timed: Timed
) -> Iterator[memoryview]:
    """Read neighbouring pieces step by step; yield each once it is full, fewer at the file's end.

    A step is read when its first piece is asked for.

    Raises:
        UnavailableError: an I/O error.
    """
    at = 0
    while at < len(pieces):
        num_bytes, end = 0, at
        while end < len(pieces) and num_bytes < step_bytes:
            num_bytes += len(pieces[end])
            end += 1
        step, at = pieces[at:end], end
        with timed():
            num_read = file.preadv(step, offset)
        yield from _full(step, num_read) if num_read < num_bytes else step
        if num_read < num_bytes:
            return
        offset += num_read


def _full(pieces: Sequence[memoryview], num_read: int) -> Iterator[memoryview]:
    """Yield the leading pieces that `num_read` bytes fill."""
    for piece in pieces:
        num_read -= len(piece)
        if num_read < 0:
            return
        yield piece
