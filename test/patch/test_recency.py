"""Hits above the disk: a request counts once, a path is entered once, the newest are kept."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.errors import UnavailableError
from sglang_lsm.pages import NamespaceId, PagePath

from sglang_lsm_patch.recency import (
    MAX_WAITING,
    NUM_REMEMBERED_REQUESTS,
    HitQueue,
    RequestsSeen,
)

NAMESPACE = NamespaceId(b"recency!")


def path(number):
    return [number.to_bytes(32, "big")]


def add(queue, number):
    queue.add(NAMESPACE, lambda: path(number))


@given(st.lists(st.integers(0, 9).map(str)))
def test_a_request_is_first_once(requests):
    seen = RequestsSeen()
    first = [request for request in requests if seen.is_first(request)]
    assert first == list(dict.fromkeys(requests))


def test_old_requests_are_forgotten():
    seen = RequestsSeen()
    requests = [str(i) for i in range(NUM_REMEMBERED_REQUESTS + 1)]
    assert all(seen.is_first(request) for request in requests)
    assert not seen.is_first(requests[1])
    assert seen.is_first(requests[0])


@given(st.lists(st.integers(1, 2 * MAX_WAITING), max_size=6))
def test_the_newest_of_each_round_are_entered_once_and_in_order(rounds):
    entered, expected, num_dropped, number = [], [], 0, 0
    queue = HitQueue(entered.append)
    for count in rounds:
        for _ in range(count):
            add(queue, number)
            number += 1
        kept = min(count, MAX_WAITING)
        expected += [PagePath(NAMESPACE, path(i)) for i in range(number - kept, number)]
        num_dropped += count - kept
        queue.enter()
    queue.enter()
    assert entered == expected
    assert queue.num_dropped == num_dropped


def test_nothing_is_looked_at_before_a_storage_thread_has_time():
    asked = []
    queue = HitQueue(lambda _: None)
    queue.add(NAMESPACE, lambda: asked.append(threading.get_ident()) or path(1))
    assert asked == []
    thread = threading.Thread(target=queue.enter)
    thread.start()
    thread.join()
    assert asked == [thread.ident]


def test_a_store_that_fails_costs_one_path():
    entered = []

    def touch(path):
        if not entered and path.hashes == PATH_0:
            raise UnavailableError("gone")
        entered.append(path)

    PATH_0 = path(0)
    queue = HitQueue(touch)
    add(queue, 0)
    add(queue, 1)
    with pytest.raises(UnavailableError):
        queue.enter()
    queue.enter()
    assert entered == [PagePath(NAMESPACE, path(1))]


def test_while_one_thread_enters_another_does_not_wait():
    inside, go_on = threading.Event(), threading.Event()
    entered = []

    def touch(path):
        inside.set()
        go_on.wait(30.0)
        entered.append(path)

    queue = HitQueue(touch)
    add(queue, 0)
    thread = threading.Thread(target=queue.enter)
    thread.start()
    assert inside.wait(30.0)
    add(queue, 1)
    queue.enter()
    assert entered == []
    go_on.set()
    thread.join()
    queue.enter()
    assert entered == [PagePath(NAMESPACE, path(0)), PagePath(NAMESPACE, path(1))]
