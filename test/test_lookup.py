import hypothesis.strategies as st
from hypothesis import given
from sglang_lsm.format import encode_index_value
from sglang_lsm.keycodec import hash_tail
from sglang_lsm.lookup import missing_pages, num_current, num_present, stored_pages
from sglang_lsm.pages import Location
from support.page_maker import fingerprint, path_of


class Segments:
    def has(self, segment_id):
        return segment_id < 3


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), max_size=8))
def test_a_value_holds_if_it_is_of_its_page_and_its_segment_is_there(facts):
    path = path_of(fingerprint().namespace, range(len(facts) + 1), start=1)
    values, holds = [], []
    for i, (segment_id, is_ours, is_there) in enumerate(facts):
        tail = hash_tail(path.hashes[1 + i]) if is_ours else bytes(8)
        value = encode_index_value(Location(segment_id, 4096, 10, 0, tail))
        values.append(value if is_there else None)
        holds.append(is_there and is_ours and segment_id < 3)
    assert missing_pages(Segments(), path, values) == [i for i, ok in enumerate(holds) if not ok]
    leading = values[: values.index(None)] if None in values else values
    expected = next((i for i, ok in enumerate(holds) if not ok), len(holds))
    assert num_current(Segments(), path, leading) == expected
    absent = [i for i, value in enumerate(leading) if value[0] >= 3]
    assert num_present(Segments(), leading) == min([len(leading), *absent])
    for num_unexpired in (0, 2, len(facts)):
        stored = stored_pages(Segments(), path, values, num_unexpired)
        assert stored == [ok and i < num_unexpired for i, ok in enumerate(holds)]
