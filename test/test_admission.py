import hashlib

from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.admission import Doorkeeper


def hashes(numbers):
    return [hashlib.sha256(str(number).encode()).digest() for number in numbers]


@given(st.lists(st.lists(st.integers(0, 50), unique=True, max_size=20), max_size=10))
def test_a_page_offered_before_is_known(calls):
    keeper, offered = Doorkeeper(1 << 12), set()
    for numbers in calls:
        known = keeper.enter(hashes(numbers))
        assert [n for n, is_known in zip(numbers, known, strict=True) if not is_known] == [
            n for n in numbers if n not in offered
        ]
        offered.update(numbers)


def test_few_new_pages_are_taken_for_known_ones():
    keeper = Doorkeeper(1 << 12)
    keeper.enter(hashes(range(4000)))
    assert sum(keeper.enter(hashes(range(10_000, 10_090)))) < 20


def test_what_was_offered_long_ago_is_forgotten():
    keeper = Doorkeeper(64)
    keeper.enter(hashes(range(32)))
    for start in range(1000, 3000, 50):
        keeper.enter(hashes(range(start, start + 50)))
    assert sum(keeper.enter(hashes(range(32)))) < 16


def test_what_is_offered_now_and_then_stays_known():
    keeper = Doorkeeper(64)
    keeper.enter(hashes(range(4)))
    for start in range(1000, 3000, 50):
        keeper.enter(hashes(range(start, start + 50)))
        assert keeper.enter(hashes(range(4))) == [True] * 4


def test_no_pages_are_no_question():
    assert Doorkeeper(64).enter([]) == []
