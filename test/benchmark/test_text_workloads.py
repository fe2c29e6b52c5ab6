"""Requests are the same for a seed, share what they say they share, and end where lines end."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.text_workloads import (
    Offered,
    Request,
    Shape,
    Texts,
    TooLittleTextError,
    cut,
    multi_turn,
    offered,
    rag,
    shared_prefix,
    total,
)

SHAPE = Shape(
    num_passages=6,
    passage_tokens=40,
    passages_per_prompt=3,
    num_groups=3,
    group_tokens=100,
    num_conversations=3,
    opening_tokens=60,
    turn_tokens=20,
)
PAGE = 16


def document(seed: int) -> list[tuple[int, ...]]:
    chance = random.Random(seed)
    return [
        tuple(chance.randrange(1000, 9000) for _ in range(chance.randrange(3, 18)))
        for _ in range(60)
    ]


TEXTS = Texts([document(seed) for seed in range(6)], lambda text: tuple(text.encode()))
BUILDERS = (rag, shared_prefix, multi_turn)


@pytest.mark.parametrize("build", BUILDERS)
def test_a_seed_gives_the_same_requests_and_another_others(build) -> None:
    assert build(TEXTS, SHAPE, 9, seed=1) == build(TEXTS, SHAPE, 9, seed=1)
    assert build(TEXTS, SHAPE, 9, seed=1) != build(TEXTS, SHAPE, 9, seed=2)
    assert build(TEXTS, SHAPE, 9, seed=1)[:3] == build(TEXTS, SHAPE, 3, seed=1)


@pytest.mark.parametrize("build", BUILDERS)
def test_too_little_text_is_told(build) -> None:
    with pytest.raises(TooLittleTextError, match="too few"):
        build(Texts([TEXTS.documents[0][:20]], TEXTS.encode), SHAPE, 9, seed=1)


@given(
    lines=st.lists(st.lists(st.integers(0, 9), max_size=30).map(tuple), max_size=30),
    least=st.integers(1, 25),
)
def test_passages_are_the_text_in_order_and_no_longer_than_twice_what_they_must_be(
    lines, least
) -> None:
    found = cut(lines, least)
    tokens = [token for passage in found for line in passage for token in line]
    text = [token for line in lines for token in line]
    assert tokens == text[: len(tokens)]
    assert len(text) - len(tokens) < least
    assert all(least <= sum(map(len, passage)) < 2 * least for passage in found)


def test_a_question_is_about_its_first_passages_more_often_than_about_the_last() -> None:
    requests = rag(TEXTS, SHAPE, 300, seed=1)
    heads = {one.parts[0] for one in requests}
    assert len(heads) == 1
    # The passage that a line was taken from has all its words, so it is retrieved first.
    first = [one.parts[1] for one in requests]
    times = sorted((first.count(passage) for passage in set(first)), reverse=True)
    assert len(times) == SHAPE.num_passages
    # Zipf over six: 41 % and 7 %.
    assert times[0] == pytest.approx(0.41 * 300, rel=0.25)
    assert times[-1] == pytest.approx(0.07 * 300, rel=0.5)
    assert all(len(set(one.parts[1:4])) == 3 for one in requests)


def test_popular_passages_first_are_the_same_requests_that_share_more() -> None:
    plain = rag(TEXTS, SHAPE, 60, seed=1)
    sorted_ones = rag(TEXTS, SHAPE, 60, popular_first=True, seed=1)
    assert [set(one.parts) for one in plain] == [set(one.parts) for one in sorted_ones]
    assert [one.parts[-1] for one in plain] == [one.parts[-1] for one in sorted_ones]
    before, after = (total(offered(some, PAGE)) for some in (plain, sorted_ones))
    assert (before.asked, before.seen) == (after.asked, after.seen)
    assert before.whole_pages < after.whole_pages


def test_between_passages_of_whole_pages_no_hit_is_cut_short() -> None:
    lines, pages = (rag(TEXTS, SHAPE, 60, page_size=size, seed=1) for size in (0, PAGE))
    assert all(len(part) % PAGE == 0 for one in pages for part in one.parts[:-1])
    assert not any(_cut_short(pages))
    assert any(_cut_short(lines))


def _cut_short(requests: list[Request]) -> list[bool]:
    """Whether what is shared ends within a page, and before the question."""
    return [
        found.shared % PAGE > 0 and found.shared < found.asked - len(one.parts[-1])
        for one, found in zip(requests, offered(requests, PAGE), strict=True)
    ]


def test_each_group_asks_once_a_round_below_its_own_system_prompt() -> None:
    requests = shared_prefix(TEXTS, SHAPE, 9, seed=1)
    prompts = [one.parts[:2] for one in requests]
    assert len(set(prompts)) == SHAPE.num_groups
    for start in (0, 3, 6):
        assert len(set(prompts[start : start + 3])) == SHAPE.num_groups
    assert all(len(text) >= SHAPE.group_tokens for _, text in prompts)
    shared = [one.shared for one in offered(requests, PAGE)]
    assert all(tokens < SHAPE.group_tokens for tokens in shared[:3])
    assert all(tokens > SHAPE.group_tokens for tokens in shared[3:])


def test_each_turn_is_the_one_before_and_more() -> None:
    requests = multi_turn(TEXTS, SHAPE, 11, seed=1)
    openings = [one for one in requests if one.after is None]
    assert len(openings) == SHAPE.num_conversations
    assert requests[:3] == openings
    for index, one in enumerate(requests):
        if one.after is not None:
            earlier = requests[one.after]
            assert one.after < index
            assert one.parts[:-1] == earlier.parts
            assert len(one.parts[-1]) >= SHAPE.turn_tokens
    # No turn is gone on from twice.
    after = [one.after for one in requests if one.after is not None]
    assert len(set(after)) == len(after)


def test_what_was_offered_is_counted_in_tokens_and_in_whole_pages() -> None:
    one, two, three = (1,) * 5, (2,) * 5, (3,) * 6
    requests = [Request((one, two)), Request((two, one)), Request((one, two, three))]
    assert offered([*requests, requests[0]], 4) == [
        Offered(10, 0, 0, 0),
        Offered(10, 10, 0, 0),
        Offered(16, 10, 10, 8),
        # All ten are known, and the last is computed all the same.
        Offered(10, 10, 10, 8),
    ]
    assert offered([Request((one[:4],)), Request((one[:4],))], 4)[1].whole_pages == 0
    assert total([]) == Offered(0, 0, 0, 0)
    assert total([Offered(1, 2, 3, 4), Offered(1, 1, 1, 1)]) == Offered(2, 3, 4, 5)
