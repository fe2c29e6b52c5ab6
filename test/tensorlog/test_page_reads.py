"""What is read are the pages, each verified; fewer where the file ends."""

from contextlib import nullcontext
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from sglang_lsm import format
from sglang_lsm.pages import Location
from sglang_lsm.tensorlog.page_reads import PageRow, ReadRequest
from sglang_lsm.tensorlog.scratch import Scratch
from sglang_lsm.tensorlog.transfer import Transfer, gather_write, page_bytes
from support.fake_fs import FakeDisk

PATH = Path("/log/pages")
START = format.BLOCK_BYTES
contents = st.lists(
    st.lists(st.binary(min_size=1, max_size=9000), min_size=1, max_size=3), min_size=1, max_size=5
)


def views(pages):
    return [[memoryview(bytearray(piece)) for piece in page] for page in pages]


class Written:
    """Pages one behind the other in a file, and what it takes to read them back."""

    def __init__(self, pages):
        written = views(pages)
        self.keys = [b"key %d" % i for i in range(len(pages))]
        self.locations, offset = [], START
        for key, page in zip(self.keys, written, strict=True):
            checksum = format.page_checksum(key, page)
            self.locations.append(Location(7, offset, page_bytes(page), checksum, b""))
            offset += format.padded(page_bytes(page))
        self.transfer = Transfer(7, START, offset - START, tuple(range(len(pages))))
        self.content = b"".join(gather_write((page, page_bytes(page)) for page in written))
        disk = FakeDisk()
        disk.make_dir(PATH.parent)
        self.file = disk.open(PATH, create=True)
        self.file.pwritev([self.content], START)
        self.out = [[memoryview(bytearray(len(piece))) for piece in page] for page in written]
        self.num_calls = 0

    def read(self, checks=True):
        def counted():
            self.num_calls += 1
            return nullcontext()

        pages = ReadRequest(self.keys, self.locations, self.out, checks)
        row = PageRow.of(self.transfer, pages, Scratch(0))
        return ((i, verdict == "intact") for i, verdict in row.read(self.file, counted))


@given(contents, st.booleans())
@example([[b"x" * 4096] * 3, [b"y" * 8192]], True)
def test_every_page_is_read_in_one_call(pages, checks):
    written = Written(pages)
    expected = [(i, True) for i in range(len(pages))]
    assert list(written.read(checks)) == expected
    assert written.num_calls == 1
    assert [[bytes(piece) for piece in page] for page in written.out] == pages


@given(contents, st.booleans(), st.data())
def test_what_lies_behind_the_end_of_the_file_is_not_intact(pages, checks, data):
    written = Written(pages)
    ends = [at.offset + at.length for at in written.locations]
    end = data.draw(st.integers(START, ends[-1] - 1))
    written.file.truncate(end)
    assert [ok for _, ok in written.read(checks)] == [end >= at for at in ends]


@given(contents, st.data())
def test_a_flipped_bit_is_found_in_its_page_alone(pages, data):
    written = Written(pages)
    flipped = data.draw(st.integers(0, len(pages) - 1))
    at = written.locations[flipped]
    byte = data.draw(st.integers(at.offset, at.offset + at.length - 1))
    written.file.pwritev([bytes([written.content[byte - START] ^ 16])], byte)
    expected = [i != flipped for i in range(len(pages))]
    assert [ok for _, ok in written.read()] == expected
    assert all(ok for _, ok in written.read(checks=False))
