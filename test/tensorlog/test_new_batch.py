from sglang_lsm import format
from sglang_lsm.tensorlog.new_batch import NewBatch, Reservation, Seal


class Segment:
    segment_id = 7


KEYS = [bytes([i]) * 24 for i in range(2)]
PAGES = [[memoryview(b"a" * 5000)], [memoryview(b"b" * 10)]]
PLACE = Reservation(Segment(), 8192, 4096, 2)


def batch_of(seals):
    return NewBatch(KEYS, PAGES, [b"1" * 8, b"2" * 8], [5000, 10], seals)


def test_a_batch_tells_where_its_pages_are_going_to_lie():
    assert [at[:3] for at in batch_of(None).unsealed(PLACE)] == [(7, 12288, 5000), (7, 20480, 10)]


def test_checksums_that_are_not_known_are_computed():
    found = batch_of(None).describe(PLACE, 5)
    expected = [format.page_checksum(key, page) for key, page in zip(KEYS, PAGES, strict=True)]
    assert [entry.checksum for entry in found.entries] == expected
    assert [entry.flags for entry in found.entries] == [0, 0]
    assert [at[:3] for at in found.locations()] == [at[:3] for at in batch_of(None).unsealed(PLACE)]


def test_what_is_known_of_a_copy_is_kept():
    found = batch_of([Seal(11, 0), Seal(12, format.ENCODED)]).describe(PLACE, 5)
    assert [(entry.checksum, entry.flags) for entry in found.entries] == [(11, 0), (12, 1)]
