"""Reading the pages of one transfer with one system call, and verifying each.

In one call, since each costs a handover of the interpreter's lock: beside a thread that is busy in
Python, as a server's scheduler is while requests wait, that may take 5 ms, and more than a checksum
in a warm cache or a better pace of the kernel's read-ahead saves.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from sglang_lsm import format
from sglang_lsm.fs import File
from sglang_lsm.pages import Location, PageBuffer
from sglang_lsm.tensorlog.encoded_pages import Verdict, decode_page
from sglang_lsm.tensorlog.scratch import Scratch
from sglang_lsm.tensorlog.transfer import Transfer

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

    def read(self, file: File, timed: Timed) -> Iterator[tuple[int, Verdict]]:
        """Read all pages; yield the index of each, and what became of it, in the disk's order.

        A page that the file ends in is damaged.

        Args:
            timed: entered around the system call.

        Raises:
            UnavailableError: an I/O error.
        """
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
            length = locations[i].length
            yield i, self._verdict(number) if left >= length else "damaged"
            left -= format.padded(length)

    def _verdict(self, number: int) -> Verdict:
        """Return what became of a page that was read whole."""
        i = self.transfer.indices[number]
        at, out = self.pages.locations[i], self.pages.out[i]
        if at.flags:
            verdict = decode_page(at, self.memory[number][0][: at.length], out)
            if verdict != "intact":
                return verdict
        if not self.pages.verifies:
            return "intact"
        is_right = format.page_checksum(self.pages.keys[i], out) == at.checksum
        return "intact" if is_right else "damaged"
