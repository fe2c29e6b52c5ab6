from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from sglang_lsm import codec, format
from sglang_lsm.pages import Location
from sglang_lsm.tensorlog.encoded_pages import is_intact
from sglang_lsm.tensorlog.page_reads import PageRow, ReadRequest
from sglang_lsm.tensorlog.scratch import Scratch
from sglang_lsm.tensorlog.transfer import plan_transfers
from support.fake_fs import FakeDisk

NUM_BYTES = 32_768


def content(seed):
    """What KV looks like to a codec."""
    normal = np.random.default_rng(seed).standard_normal(NUM_BYTES // 2, np.float32)
    return (normal.view(np.uint32) >> 16).astype("<u2").tobytes()


CONTENTS = [content(seed) for seed in range(3)]
KEYS = [bytes([seed]) * 24 for seed in range(3)]


def written(flags):
    """Three neighbours on a disk, those of a flag encoded, and where they lie."""
    disk, locations = bytearray(), []
    for key, page, flag in zip(KEYS, CONTENTS, flags, strict=True):
        stored = codec.encode(memoryview(page), 2) if flag else page
        stored = stored.ljust(format.padded(len(stored)), b"\0")
        checksum = format.page_checksum(key, [memoryview(page)])
        locations.append(Location(1, len(disk), len(stored), checksum, b"t" * 8, flag))
        disk += stored
    return disk, locations


def read(disk, locations, out, *, num_bytes=None, verifies=True):
    """Read all as one transfer; return what became of each page."""
    (transfer,) = plan_transfers(locations, io_bytes=1 << 30)
    fake = FakeDisk()
    fake.make_dir(Path("/log"))
    file = fake.open(Path("/log/pages"), create=True)
    file.pwritev([bytes(disk[:num_bytes])], 0)
    row = PageRow.of(transfer, ReadRequest(KEYS, locations, out, verifies), Scratch(0))
    return dict(row.read(file, nullcontext))


def buffers(*sizes):
    return [[memoryview(bytearray(size))] for size in sizes]


@pytest.mark.parametrize("flags", [(1, 1, 1), (0, 1, 0), (1, 0, 1)])
def test_plain_and_encoded_pages_come_out_as_they_were(flags):
    disk, locations = written(flags)
    out = buffers(*[NUM_BYTES] * 3)
    assert read(disk, locations, out) == dict.fromkeys(range(3), "intact")
    assert [bytes(page[0]) for page in out] == CONTENTS


def test_only_the_page_that_is_damaged_is_lost():
    disk, locations = written((1, 1, 0))
    disk[locations[1].offset + 20_000] ^= 1
    out = buffers(*[NUM_BYTES] * 3)
    assert read(disk, locations, out) == {0: "intact", 1: "damaged", 2: "intact"}


def test_bytes_that_did_not_come_and_other_forms_are_damaged():
    disk, locations = written((1, 1, 1))
    out = buffers(*[NUM_BYTES] * 3)
    assert read(disk, locations, out, num_bytes=locations[2].offset - 1) == {
        0: "intact", 1: "damaged", 2: "damaged",
    }  # fmt: skip
    locations[0] = locations[0]._replace(flags=3)
    assert read(disk, locations, out)[0] == "damaged"


def test_a_page_of_another_size_is_no_damage():
    disk, locations = written((1, 1, 1))
    out = buffers(NUM_BYTES, NUM_BYTES - 2, NUM_BYTES)
    assert read(disk, locations, out) == {0: "intact", 1: "misfit", 2: "intact"}


def test_a_page_of_another_name_is_damaged_unless_nobody_checks():
    disk, locations = written((1, 0, 1))
    locations[0] = locations[0]._replace(checksum=locations[0].checksum ^ 1)
    out = buffers(*[NUM_BYTES] * 3)
    assert read(disk, locations, out)[0] == "damaged"
    assert read(disk, locations, out, verifies=False)[0] == "intact"


@pytest.mark.parametrize("flag", [0, 1])
def test_a_copy_is_taken_of_what_is_intact_alone(flag):
    disk, locations = written((flag,) * 3)
    at = locations[1]
    stored = memoryview(disk)[at.offset : at.offset + at.length]
    assert is_intact(KEYS[1], at, stored)
    assert not is_intact(KEYS[0], at, stored)
    assert not is_intact(KEYS[1], at, memoryview(bytes(len(stored))))
    assert not is_intact(KEYS[1], at._replace(flags=2), stored)
