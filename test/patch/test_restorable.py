"""Which prefixes several pools can go on from, against the definition itself."""

from hypothesis import given
from hypothesis import strategies as st

from sglang_lsm_patch.restorable import Need, restorable_lengths

presence = st.lists(st.booleans(), max_size=40)
windows = st.integers(1, 45)


@given(presence, windows)
def test_a_length_is_good_when_the_window_before_it_is_there(present, window):
    expected = [n for n in range(1, len(present) + 1) if all(present[max(0, n - window) : n])]
    assert Need(present=present, window=window).lengths() == expected


@given(presence, windows, windows)
def test_a_wider_window_never_restores_more(present, window, more):
    narrow = Need(present=present, window=window).lengths()
    wide = Need(present=present, window=window + more).lengths()
    assert set(wide) <= set(narrow)


@given(st.integers(0, 20), st.lists(st.sets(st.integers(1, 25)).map(sorted), max_size=4))
def test_each_pool_must_agree(num_pages, lengths):
    found = restorable_lengths(num_pages, lengths)
    assert found == sorted(found)
    assert set(found) == set(range(1, num_pages + 1)).intersection(*map(set, lengths))


def test_a_longer_and_a_shorter_prefix_can_be_good_where_one_between_is_not():
    state = Need(present=[False, True, False, False, True], window=1)
    window = Need(present=[True, True, False, True, True], window=2)
    assert state.lengths() == [2, 5]
    assert window.lengths() == [1, 2, 5]
    assert restorable_lengths(5, [state.lengths(), window.lengths()]) == [2, 5]
    assert restorable_lengths(4, [state.lengths(), window.lengths()]) == [2]
