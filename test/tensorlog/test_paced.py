"""A read in parts gives what one read would, as far as it goes."""

from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.pages import Location
from sglang_lsm.tensorlog.log import ReadResult
from sglang_lsm.tensorlog.paced import read_at_pace


class Pace:
    """Says the given numbers, then 0."""

    def __init__(self, parts):
        self.parts, self.asked, self.read = list(parts), [], 0

    def next_pages(self, num_left, num_bytes):
        self.asked.append((num_left, num_bytes))
        return self.parts.pop(0) if self.parts else 0

    def was_read(self, num_pages, seconds):
        assert seconds >= 0
        self.read += num_pages


@given(
    states=st.lists(st.sampled_from(["intact", "damaged", "unreadable"]), max_size=40),
    parts=st.lists(st.integers(1, 15), max_size=12),
)
def test_the_parts_are_the_leading_run_of_one_read(states, parts):
    keys = [i.to_bytes(2, "big") for i in range(len(states))]
    locations = [Location(1, i * 4096, 100, 0, bytes(8)) for i in range(len(states))]
    out = [(memoryview(bytearray(100)),) for _ in states]

    def read(some_keys, some_locations, some_out):
        first = int.from_bytes(some_keys[0], "big")
        assert len(some_keys) == len(some_locations) == len(some_out)
        mine = states[first : first + len(some_keys)]
        damaged = [i for i, state in enumerate(mine) if state == "damaged"]
        return ReadResult([state == "intact" for state in mine], damaged)

    pace = Pace(parts)
    result = read_at_pace(read, pace, keys, locations, out)

    assert len(result.intact) == len(states)
    for i in range(pace.read):
        assert result.intact[i] == (states[i] == "intact")
        assert (i in result.damaged) == (states[i] == "damaged")
    assert not any(result.intact[pace.read :])
    assert all(i < pace.read for i in result.damaged)
    if all(state == "intact" for state in states):
        assert pace.read == min(sum(parts), len(states))
    assert all(num_bytes == 100 * num_left for num_left, num_bytes in pace.asked)
