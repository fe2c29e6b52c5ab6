"""What fits best shares the rarest words with the question."""

from hypothesis import given
from hypothesis import strategies as st

from benchmark.retrieval import Bm25

passages = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=20), min_size=1, max_size=8)


@given(passages=passages, question=st.lists(st.integers(0, 9), max_size=6), num=st.integers(0, 9))
def test_as_many_as_there_are_each_once_and_always_the_same(passages, question, num) -> None:
    search = Bm25(passages)
    found = search.best(question, num)
    assert len(found) == len(set(found)) == min(num, len(passages))
    assert found == search.best(question[::-1], num)
    assert search.best(question, len(passages))[:num] == found


@given(passages=passages, question=st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_a_passage_that_shares_a_word_comes_before_one_that_shares_none(passages, question) -> None:
    shares = [
        bool(set(question) & set(passages[index])) for index in Bm25(passages).best(question, 9)
    ]
    assert shares == sorted(shares, reverse=True)


def test_rare_words_count_more_than_common_ones_and_long_passages_pay() -> None:
    common, rare = 1, 2
    assert Bm25([[common] * 2, [common, 3], [rare, 4], [common, 5]]).best([common, rare], 1) == [2]
    assert Bm25([[7, *range(10, 40)], [7, 8]]).best([7], 2) == [1, 0]
