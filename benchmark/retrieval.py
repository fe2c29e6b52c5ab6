"""Which of a few passages fit a question best (Okapi BM25); words are tokens."""

import math
from collections import Counter
from collections.abc import Sequence

_SATURATION, _LENGTH_SHARE = 1.2, 0.75
"""The usual k1 and b: how soon a repeated word counts no more, how much long passages pay."""


class Bm25:
    """Ranks passages. Immutable."""

    def __init__(self, passages: Sequence[Sequence[int]]) -> None:
        self._counts = [Counter(passage) for passage in passages]
        self._lengths = [len(passage) for passage in passages]
        self._mean_length = sum(self._lengths) / max(1, len(passages))
        self._num_with = Counter(token for count in self._counts for token in count)

    def best(self, question: Sequence[int], num: int) -> list[int]:
        """Return the indices of the passages that fit best, best first; ties by index."""
        words = set(question)
        order = sorted(
            range(len(self._counts)), key=lambda index: (-self._fit(words, index), index)
        )
        return order[:num]

    def _fit(self, words: set[int], index: int) -> float:
        count = self._counts[index]
        pays = 1 - _LENGTH_SHARE + _LENGTH_SHARE * self._lengths[index] / self._mean_length
        # In order, as a sum of floats depends on it.
        return sum(
            self._rarity(word) * count[word] / (count[word] + _SATURATION * pays)
            for word in sorted(words)
            if word in count
        )

    def _rarity(self, word: int) -> float:
        has = self._num_with[word]
        return math.log(1 + (len(self._counts) - has + 0.5) / (has + 0.5))
