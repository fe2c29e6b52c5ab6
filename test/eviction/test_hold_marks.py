import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from sglang_lsm.eviction import traits
from sglang_lsm.eviction.hold_marks import NO_MARKS, HoldMarks

holds = st.lists(
    st.tuples(st.lists(st.integers(0, 9), max_size=5), st.integers(0, 3), st.booleans()), max_size=5
)


@given(holds, st.lists(st.integers(0, 12), max_size=8))
def test_a_page_gets_the_most_that_any_hold_asks_for(parts, asked):
    marks = HoldMarks.of([(np.array(keys, np.uint64), p, b) for keys, p, b in parts], ())
    expected = [
        max((p for keys, p, _ in parts if key in keys), default=0) << traits.PRIORITY_SHIFT
        | any(b for keys, _, b in parts if key in keys) * traits.PINNED
        for key in asked
    ]
    assert marks.bits_of(np.array(asked, np.uint64)).tolist() == expected
    pinned = {key for keys, _, is_pinned in parts if is_pinned for key in keys}
    assert marks.pinned_keys().tolist() == sorted(pinned)


def test_without_holds_nothing_is_marked():
    assert NO_MARKS.bits_of(np.array([1, 2], np.uint64)).tolist() == [0, 0]
